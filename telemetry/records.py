"""The records of telemetry: one schema, versioned, typed, msgpack on the wire (`telemetry.codec`).

Times are `time.perf_counter_ns()` (CLOCK_MONOTONIC on Linux), comparable between processes of one
host. Durations are nanoseconds. Sizes are bytes. A field added later has a default, so that an old
reader and a new writer understand each other; `None` means *unavailable*, never zero.
What comes by the thousand is kept from the garbage collector (`gc=False`): it can hold no circle.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

SCHEMA_VERSION = 1

Count = Annotated[int, Meta(ge=0, le=1 << 48)]  # bounded, so that no sum of what a message claims leaves 64 bits


class AxisTime(Struct, frozen=True, gc=False):
    """The collectives of one axis during one step of one rank.

    `wait_ns` is the time from this rank's arrival to the last rank's; `transfer_ns` the time from
    there to the end. Their sum is the time that this rank spent inside the collectives.
    """

    calls: int = 0
    bytes: int = 0
    wait_ns: int = 0
    transfer_ns: int = 0


class StepRecord(Struct, frozen=True, tag="step", gc=False):
    """One forward pass of one micro-batch through one stage, as one rank saw it.

    `wall_ns` runs from the end of this rank's previous step (or the arrival of the plan, when the rank
    was idle before) to the end of this one, and is the sum of its parts:
    `wall = gap + recv_wait + compute + sum(axis.wait + axis.transfer)`, where `gap` is host time without work
    on the device and `recv_wait` the wait for the previous stage's hidden states.
    """

    rank: int
    generation: int
    step: int
    slot: int
    start_ns: int
    wall_ns: int
    idle_ns: int  # before `start_ns`: nothing had been asked of this rank
    gap_ns: int
    recv_wait_ns: int
    compute_ns: int
    axes: dict[str, AxisTime]  # by axis: "tp", "ep", "pp"
    prefill_tokens: int
    decode_tokens: int
    sequences: int
    kv_blocks_used: int
    kv_blocks_total: int
    memory_bytes: int  # device memory (CUDA) or resident set (CPU) of the process
    expert_tokens: list[Count] | None = None  # by local expert, all layers of the stage summed, dummies excluded


class RankMemory(Struct, frozen=True, tag="memory"):
    """Where a rank's memory went, once after loading. Bytes; `None`: not known on this device."""

    rank: int
    generation: int
    weights: int
    kv: int
    activations: int | None
    total: int | None  # capacity that the rank may use
    free: int | None


class EngineRecord(Struct, frozen=True, tag="engine"):
    """One replica's queue, a few times a second and at every change of its emptiness. Counters only grow."""

    deployment: str
    generation: int
    replica: int
    time_ns: int
    running: Count
    waiting: Count
    kv_used: Count  # blocks that running requests hold
    kv_cached: Count  # blocks that are free but hold a reusable prefix
    kv_total: Count
    prompt_tokens: Count  # counter
    generated_tokens: Count  # counter
    finished: Count  # counter
    aborted: Count  # counter
    preemptions: Count  # counter
    prefix_queries: Count  # counter, tokens looked up
    prefix_hits: Count  # counter, tokens found
    steps: Count  # counter
    in_flight: Count  # micro-batches now in the pipeline


class RequestRecord(Struct, frozen=True, tag="request"):
    """One finished request. Lengths and times only, never its text."""

    deployment: str
    generation: int
    request: str
    replica: int
    arrived_ns: int
    scheduled_ns: int | None
    first_token_ns: int | None
    finished_ns: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    finish_reason: str


class EventRecord(Struct, frozen=True, tag="event"):
    """Something that happened: a state, a fault, an operator's action."""

    deployment: str
    generation: int
    time_ns: int
    severity: str  # "info", "warning", "error"
    kind: str  # "state", "rank-died", "stalled", "operator", ...
    text: str
    rank: int | None = None


class DeviceRecord(Struct, frozen=True, tag="device"):
    """What the operating system or the driver says of one rank's process and device, at 1 to 2 Hz."""

    rank: int
    generation: int
    time_ns: int
    cpu_percent: float | None = None  # of one core, this process
    rss: int | None = None
    gpu_util: float | None = None
    gpu_memory_used: int | None = None
    gpu_memory_total: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    sm_clock_mhz: int | None = None


class RankInfo(Struct, frozen=True):
    """Who a rank is: its place in the layout, its process, its device."""

    rank: int
    dp: int
    pp: int
    ep: int
    tp: int
    pid: int
    device: str  # "cpu", "cuda:0"
    first_layer: int
    last_layer: int  # inclusive


class DeploymentRecord(Struct, frozen=True, tag="deployment"):
    """A deployment's identity and state, at every change of it."""

    deployment: str
    generation: int
    time_ns: int
    state: str  # "STARTING", "READY", "RECONFIGURING", "DRAINING", "RESTARTING", "FAILED", "STOPPED"
    model: str
    layout: dict[str, int]  # dp, pp, ep, tp
    device: str
    dtype: str
    emulated: bool
    ranks: list[RankInfo]
    phase: str = ""  # of a start or a reconfiguration: "drain", "stop", "spawn", "load", "warm-up", "replay", ...
    progress: float | None = None  # of the phase, 0 to 1
    reason: str = ""  # why it failed; what is changed, or why the change is taken back


Record = StepRecord | RankMemory | EngineRecord | RequestRecord | EventRecord | DeviceRecord | DeploymentRecord


class Envelope(Struct, frozen=True, array_like=True, gc=False):
    """What a message on the telemetry socket holds: who sent it, its place in the sender's order, its records.

    `seq` grows by one a message; `lost` counts the sender's messages that the full socket refused so far.
    """

    version: int
    deployment: str
    sender: str  # "rank:3", "engine:0", "daemon"
    boot: int  # differs between two lives of a sender
    seq: int
    lost: int
    records: list[Record]
