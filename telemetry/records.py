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
MAX_GAPS = 100_000  # of a request record: as many fit into one message

# bounded, so that no sum of what messages claim leaves 64 bits
Count = Annotated[int, Meta(ge=0, le=1 << 48)]
Idle = Annotated[int, Meta(ge=0, le=1 << 56)]  # two years
Time = Annotated[int, Meta(ge=-(1 << 61), le=1 << 61)]
Flops = Annotated[int, Meta(ge=0, le=1 << 57)]
Rate = Annotated[float, Meta(ge=1.0, le=1e24)]


class AxisTime(Struct, frozen=True, gc=False):
    """The collectives of one axis during one step of one rank.

    `wait_ns` is the time from this rank's arrival to the last rank's; `transfer_ns` the time from
    there to the end. Their sum is the time that this rank spent inside the collectives.
    """

    calls: Count = 0
    bytes: Count = 0
    wait_ns: Count = 0
    transfer_ns: Count = 0


class Phase(Struct, frozen=True, array_like=True, gc=False):
    """A stretch of one step on one rank. Host work is the time that no phase covers."""

    name: str  # "recv" (waiting for the previous stage), "forward", "send", "sample"
    offset_ns: Count  # from the step's start
    duration_ns: Count


class StepRecord(Struct, frozen=True, tag="step", gc=False):
    """One forward pass of one micro-batch through one stage, as one rank saw it.

    `wall_ns` runs from the end of this rank's previous step (or the arrival of the plan, when the rank
    was idle before) to the end of this one, and is the sum of its parts:
    `wall = gap + recv_wait + compute + sum(axis.wait + axis.transfer)`, where `gap` is host time without work
    on the device and `recv_wait` the wait for the previous stage's hidden states.

    `flops` and the bytes are analytic, what the model needs of this shard and not what kernels did: see `runtime.rank.work`.
    """

    rank: int
    generation: int
    step: int
    slot: int
    start_ns: Time
    wall_ns: Count
    idle_ns: Idle  # before `start_ns`: nothing had been asked of this rank
    gap_ns: Count
    recv_wait_ns: Count
    compute_ns: Count
    axes: dict[str, AxisTime]  # by axis: "tp", "ep", "pp"
    prefill_tokens: Count
    decode_tokens: Count
    sequences: Count
    kv_blocks_used: Count
    kv_blocks_total: Count
    memory_bytes: Count  # device memory (CUDA) or resident set (CPU) of the process
    phases: list[Phase] = []  # in order, without overlap; with the gaps between them they fill `wall_ns`
    flops: Flops | None = None  # of matrix products and attention
    weight_bytes: Count | None = None  # read: of a mixture of experts, those that had a token
    kv_bytes: Count | None = None  # of keys and values, read and written


class CollectiveRecord(Struct, frozen=True, tag="collective", gc=False):
    """One kind of collective call of one rank between two moments, about a second apart, calls of one size class only.

    Size class c holds messages of more than 2^(c-1) and at most 2^c bytes. `bytes` counts nccl-tests' S: the message of an
    all-reduce, broadcast, send or receive; the parts of all members together of an all-gather or a reduce-scatter; what this rank
    sends to all members of an all-to-all, whose size class is that of the mean over its members. The histograms count calls by
    bucket of duration, see `telemetry.histograms.duration_bucket`. `first` is the number of the first call on its axis: with it
    ranks are joined. Where waiting cannot be told apart (torch.distributed), all is transfer, and a receive all wait.
    """

    rank: int
    generation: int
    start_ns: Time
    end_ns: Time
    axis: str  # "tp", "ep", "pp", "dp"
    op: str  # "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send", "recv", "barrier"
    size_class: int
    members: int
    first: Count
    calls: Count
    bytes: Count
    wait_ns: Count
    transfer_ns: Count
    waits: dict[int, Count] = {}  # calls by bucket of wait
    durations: dict[int, Count] = {}  # calls by bucket of wait + transfer


class ExpertRecord(Struct, frozen=True, tag="experts", gc=False):
    """Tokens that each expert of a rank took between two moments, about a second apart; dummies excluded.

    `tokens[i][j]`: layer `layers[i]` of the model, expert `experts[j]` of that layer. Ranks of one tp group hold parts of the
    same experts and count the same tokens.
    """

    rank: int
    generation: int
    start_ns: Time
    end_ns: Time
    layers: list[int]
    experts: list[int]
    tokens: list[list[Count]]


class RankMemory(Struct, frozen=True, tag="memory"):
    """Where a rank's memory is, after loading and then every few seconds. Bytes; `None`: not known on this device.

    The parts are disjoint: `used = weights + kv + activations + workspace + other`.
    """

    rank: int
    generation: int
    weights: Count
    kv: Count
    activations: Count | None  # the most that forward passes held so far
    total: Count | None  # capacity that the rank may use
    free: Count | None
    workspace: Count | None = None  # packed copies, communication buffers, captured graphs
    other: Count | None = None  # interpreter, libraries, CUDA context
    used: Count | None = None
    peak: Count | None = None  # the largest `used` so far
    time_ns: Time = 0


class EngineRecord(Struct, frozen=True, tag="engine"):
    """One replica's queue, a few times a second and at every change of its emptiness. Counters only grow."""

    deployment: str
    generation: int
    replica: int
    time_ns: Time
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
    arrived_ns: Time
    scheduled_ns: Time | None
    first_token_ns: Time | None
    finished_ns: Time
    prompt_tokens: Count
    cached_tokens: Count
    output_tokens: Count
    finish_reason: str
    gaps_ns: list[Count] = []  # between the moments at which consecutive tokens were ready, of the first `MAX_GAPS` at most


class EventRecord(Struct, frozen=True, tag="event"):
    """Something that happened: a state, a fault, an operator's action."""

    deployment: str
    generation: int
    time_ns: Time
    severity: str  # "info", "warning", "error"
    kind: str  # "state", "rank-died", "stalled", "operator", ...
    text: str
    rank: int | None = None


class DeviceRecord(Struct, frozen=True, tag="device"):
    """What the operating system or the driver says of one rank's process and device, at 1 to 2 Hz."""

    rank: int
    generation: int
    time_ns: Time
    cpu_percent: float | None = None  # of one core, this process
    rss: Count | None = None
    gpu_util: float | None = None
    gpu_memory_used: Count | None = None
    gpu_memory_total: Count | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_limit_w: float | None = None
    throttle: list[str] | None = None  # reasons now at work, in nvidia-smi's words; empty: none
    ecc_corrected: int | None = None  # counters since the driver was loaded
    ecc_uncorrected: int | None = None
    xid: int | None = None  # the last one, 0: none since this process looks
    pcie_tx: float | None = None  # bytes/s
    pcie_rx: float | None = None
    nvlink_tx: float | None = None  # bytes/s, all links
    nvlink_rx: float | None = None
    sm_active: float | None = None  # percent, GPM: Hopper and later
    tensor_active: float | None = None
    dram_active: float | None = None
    cpu_limit: float | None = None  # cores that the cgroup grants
    memory_limit: int | None = None  # bytes that the cgroup grants


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


class Peaks(Struct, frozen=True):
    """What a rank's device can do at most; of one that ranks share, the rank's equal part."""

    flops: Rate  # a second, dense, in the deployment's dtype
    bandwidth: Rate  # bytes a second, of its memory
    source: str  # who says so: "h200's data sheet", "measured here, 2026-11-21"
    link: str = ""  # between the devices: "nvlink", "pcie"; empty where they have none, or it is not known
    link_bandwidth: Rate | None = None  # bytes a second in one direction, all peers together


class DeploymentRecord(Struct, frozen=True, tag="deployment"):
    """A deployment's identity and state, at every change of it."""

    deployment: str
    generation: int
    time_ns: Time
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
    loaded: int | None = None  # bytes of all ranks, while they load
    to_load: int | None = None
    phase_ns: int | None = None  # when the phase began
    peaks: Peaks | None = None  # `None`: what the devices can do is not known


RankRecord = StepRecord | CollectiveRecord | ExpertRecord | RankMemory | DeviceRecord  # the envelope names their deployment
Record = RankRecord | EngineRecord | RequestRecord | EventRecord | DeploymentRecord


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
