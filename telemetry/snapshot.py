"""One immutable state, folded from records, that screens, status, metrics and replay share.

A value that is `None` is unavailable; a zero is a zero.
"""

from __future__ import annotations

from msgspec import Struct

from telemetry.records import DeviceRecord, EventRecord, Peaks, RankInfo


class MemoryView(Struct, frozen=True):
    """Bytes by part; `used` is what the process or the device holds now."""

    weights: int | None = None
    kv: int | None = None
    activations: int | None = None
    used: int | None = None
    total: int | None = None
    free: int | None = None
    workspace: int | None = None
    other: int | None = None
    peak: int | None = None


class AxisView(Struct, frozen=True):
    """One axis' collectives over the window, per step of this rank.

    `late_ms`: how long the other members of its group waited for this rank. Each step that all members reported has one that
    waited least in it: the last. Its lateness is the mean of the others' waits less its own, theirs is 0; `late_ms` is the mean
    over the window's joined steps. `None` before any was joined. Where a transport cannot tell wait from transfer, what a
    member was inside a step's collectives longer than the last counts as its wait.
    """

    calls: float
    bytes: float
    wait_ms: float
    transfer_ms: float
    late_ms: float | None = None


class TimeSplit(Struct, frozen=True):
    """Where a rank's time with work went over the window, in percent of it; the parts sum to 100.

    `stage`: waiting for the previous stage, and in a pipeline also for a plan: for a micro-batch to come round. `host`: the
    device had no work while the replica had some. `wait`: for a collective's last member. In a pipeline `stage` is the bubble.
    """

    compute: float
    transfer: float
    wait: float
    stage: float
    host: float


class CollectiveView(Struct, frozen=True):
    """One op of one axis in one size class over the window, all ranks of the deployment together.

    Percentiles are of calls' durations (wait + transfer), exact to a bucket of 2^(1/8). `algorithm_bandwidth` and `bus_bandwidth`
    in bytes/s of the transfer alone, by nccl-tests' formulas. `straggler`: the rank for which the others wait most, `None` where
    none stands out (`collective_fold._straggler` has the rule); `late_us`: mean wait of the others in its group less its own.
    A transport that cannot tell wait from transfer has no `wait_p99_us`, and its members' waits are what they were inside the
    calls longer than the one who was so least (`formulas.split_collective`).
    """

    axis: str
    op: str
    size_class: int  # messages of more than 2^(c-1) and at most 2^c bytes
    members: int
    calls_per_s: float  # of one rank
    bytes: float  # mean of a call
    wait_us: float  # mean of a call
    transfer_us: float
    p50_us: float | None
    p99_us: float | None
    wait_p99_us: float | None
    algorithm_bandwidth: float | None
    bus_bandwidth: float | None
    straggler: int | None = None
    late_us: float | None = None


class CollectiveTotal(Struct, frozen=True):
    """One op of one axis since the deployment appeared, all ranks and sizes together, as their transports tell it. Only grows."""

    axis: str
    op: str
    calls: int
    bytes: int
    wait_s: float
    transfer_s: float


class ExpertsView(Struct, frozen=True):
    """Tokens by layer and expert over the window. `owners[e]`: place on the ep axis of expert e. `tokens[i]`: of layer
    `layers[i]`, by expert of the model."""

    layers: tuple[int, ...]
    owners: tuple[int, ...]
    tokens: tuple[tuple[int, ...], ...]


class WorkView(Struct, frozen=True):
    """What the model needed of a rank (`StepRecord`), a second of its time with work in the window; `None` where there was none.

    `mfu_pct` = FLOPs / (time with work * peak), `mbu_pct` = (weight + KV bytes) / (time with work * peak bandwidth), in percent;
    `None` also where the device's peaks are not known. A share of a device (`Peaks`) can be exceeded while its other ranks idle.
    The last three are counted since the rank began.
    """

    flops_per_s: float | None
    weight_bytes_per_s: float | None
    kv_bytes_per_s: float | None
    mfu_pct: float | None
    mbu_pct: float | None
    flops: int
    weight_bytes: int
    kv_bytes: int


class RankView(Struct, frozen=True):
    """One rank over the last window (`Snapshot.window_s`).

    `util`: busy share of the window in percent, busy = compute + transfer; time after the last step counts once it is known to be
    without work, so a step under way lowers nothing. `util_history`: busy share of each whole second. `bubble_pct`: idle share of
    the time in which the rank's replica had work, `(recv_wait + idle with work) / (steps' wall + idle with work)`; `None` when it
    had none. Milliseconds are means per step, except `step_ms`. `tokens_per_s`: what its steps took in, prefill and decode.
    `expert_tokens`: summed over the window. `age_s`: since its last step record; `None` before the first.
    """

    info: RankInfo
    state: str
    util: float | None
    util_history: tuple[float, ...]  # percent, one a second, oldest first
    bubble_pct: float | None
    step_ms: float | None  # median wall time of a step
    compute_ms: float | None
    recv_wait_ms: float | None
    gap_ms: float | None
    axes: dict[str, AxisView]
    tokens_per_s: float | None
    memory: MemoryView
    expert_tokens: tuple[int, ...] | None
    steps: int
    lost: int  # messages lost between this rank and the hub
    age_s: float | None
    split: TimeSplit | None = None
    device: DeviceRecord | None = None  # the last one
    work: WorkView | None = None  # of ranks that count it
    suspended_s: float = 0.0  # of the window: a signal had stopped its process

    @property
    def cpu_percent(self) -> float | None:
        return None if self.device is None else self.device.cpu_percent

    @property
    def gpu_util(self) -> float | None:
        return None if self.device is None else self.device.gpu_util

    @property
    def power_w(self) -> float | None:
        return None if self.device is None else self.device.power_w

    @property
    def temperature_c(self) -> float | None:
        return None if self.device is None else self.device.temperature_c

    @property
    def allreduce_ms(self) -> float | None:
        """Time in the tp axis' collectives per step, wait and transfer together."""
        axis = self.axes.get("tp")
        return None if axis is None else axis.wait_ms + axis.transfer_ms


class HistogramView(Struct, frozen=True):
    """Observations since the deployment appeared: `counts[i]` of them in (bounds[i-1], bounds[i]], the last above all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


class EngineView(Struct, frozen=True):
    """The queues of all replicas together; rates and percentiles over the window.

    Counters only grow: an engine that starts again at 0 adds to them. TTFT = first token - arrival; ITL of a request =
    (finish - first token) / (output tokens - 1), the mean gap between its tokens; percentiles are over requests that finished
    in the window, linearly interpolated. `prefix_hit_rate`: tokens found / tokens looked up, in the window.
    """

    running: int
    waiting: int
    kv_used: int
    kv_cached: int
    kv_total: int
    tokens_per_s: float
    prompt_tokens_per_s: float
    tokens_history: tuple[float, ...]  # output tokens/s, one a second, oldest first
    prompt_tokens: int
    generated_tokens: int
    finished: int
    aborted: int
    preemptions: int
    prefix_hit_rate: float | None
    ttft_ms_p50: float | None
    ttft_ms_p99: float | None
    itl_ms_p50: float | None
    itl_ms_p99: float | None = None
    in_flight: int = 0  # micro-batches, now
    micro_batches: float | None = None  # that a replica with work kept in flight, mean over the window; `None` without work
    preempted: float = 0.0  # requests, in the window
    steps: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    finished_by_reason: dict[str, int] = {}
    histograms: dict[str, HistogramView] = {}  # by vLLM's name, without its prefix


class DeploymentView(Struct, frozen=True):
    name: str
    state: str
    generation: int
    model: str
    layout: dict[str, int]
    device: str
    dtype: str
    emulated: bool
    phase: str
    progress: float | None
    reason: str
    engine: EngineView
    ranks: tuple[RankView, ...]
    collectives: tuple[CollectiveView, ...] = ()  # by axis, op, size class
    collective_totals: tuple[CollectiveTotal, ...] = ()  # by axis and op
    experts: ExpertsView | None = None  # of a dense model
    loaded: int | None = None  # bytes of all ranks, while they load
    to_load: int | None = None
    phase_ns: int | None = None  # when the phase began; compare with the snapshot's `time_ns`
    ideal_bubble_pct: float | None = None  # of stages as even as possible with the micro-batches in flight; `None` without stages
    no_demand_pct: float | None = None  # of the window: replicas without requests, which is no bubble
    peaks: Peaks | None = None  # of each rank

    @property
    def mfu_pct(self) -> float | None:
        """Model FLOPs utilization, mean over the ranks that had work."""
        return _mean([rank.work.mfu_pct for rank in self.ranks if rank.work])

    @property
    def mbu_pct(self) -> float | None:
        """Model bandwidth utilization, mean over the ranks that had work."""
        return _mean([rank.work.mbu_pct for rank in self.ranks if rank.work])


class Snapshot(Struct, frozen=True):
    time_ns: int
    window_s: float
    deployments: tuple[DeploymentView, ...]
    events: tuple[EventRecord, ...]  # oldest first, bounded
    lost: int  # telemetry messages lost anywhere
    refused: int = 0  # messages and records that were not understood, or told of the future
    readers: int | None = None  # who listen to the hub's deltas; `None` of a recording


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
