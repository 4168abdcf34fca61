"""The fold of one rank in one generation: where its time went, its memory, its device."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from msgspec import Struct, structs

from telemetry.formulas import model_bandwidth_utilization, model_flops_utilization
from telemetry.lateness import Moved
from telemetry.records import AxisTime, DeviceRecord, ExpertRecord, Peaks, RankInfo, RankMemory, StepRecord
from telemetry.series import SECOND, Seconds, SecondsState, WorkTimeline
from telemetry.snapshot import AxisView, MemoryView, RankView, TimeSplit, WorkView
from telemetry.walls import Walls, WallsState

MAX_AXES = 8
MAX_NAME = 64  # characters of an axis or of a reason to throttle
MAX_REASONS = 16
MAX_EXPERTS = 512  # of one rank
KILO = 1000  # FLOPs are summed by the thousand, so that sums stay within 64 bits
MAX_SUSPENSIONS = 64  # of one rank, the latest

_TIMES = (
    "steps",
    "observed",
    "work",
    "bubble",
    "busy",
    "compute",
    "recv_wait",
    "gap",
    "tokens",
)  # the columns of a rank's seconds
_BUSY, _AXES = _TIMES.index("busy"), len(_TIMES)  # the first column of an axis; each has one for every field of AxisTime
_NO_CALLS = AxisTime()

LastStep = tuple[int, int]  # of the last step: (end ns, bytes of memory)


class RankState(Struct, frozen=True, array_like=True):
    """All that a `RankFold` can still show."""

    memory: RankMemory | None
    device: DeviceRecord | None
    fault: str | None
    last: LastStep | StepRecord | None  # earlier versions kept it whole
    steps: int
    axes: list[str]
    times: SecondsState
    experts: SecondsState
    walls: WallsState
    work: SecondsState | None = None
    done: list[int] = []
    suspensions: list[tuple[int, int | None]] = []


class RankFold:
    """Step, memory and device records of one rank, folded."""

    def __init__(self, window_s: float) -> None:
        self.memory: RankMemory | None = None
        self.fault: str | None = None  # "DEAD", "STALLED", "SUSPENDED": what an event said of it since its last step
        self._device: DeviceRecord | None = None
        self._last: LastStep | None = None
        self._steps = 0
        self._axes: list[str] = []  # in the order in which they came
        # columns: _TIMES, then the fields of AxisTime for each axis
        self._times = Seconds(shown=_BUSY, unit=100 / SECOND, most=100.0)
        self._experts = Seconds(shown=None, kept_s=window_s)  # a column an expert
        self._work = Seconds(shown=None, kept_s=window_s)  # columns: FLOPs / KILO, bytes of weights, of keys and values
        self._done: list[int] = []  # the same, since the rank began; nothing before it counted any
        self._walls = Walls()
        self._suspensions: deque[tuple[int, int | None]] = deque(maxlen=MAX_SUSPENSIONS)  # (since, until) ns; None: still

    def add_step(self, record: StepRecord, work: WorkTimeline) -> None:
        """Take a step; `work` tells which part of the idle time before it was time with work."""
        wall, axes, known = record.wall_ns, record.axes, self._axes
        start, end = record.start_ns, record.start_ns + wall
        if record.idle_ns > 0:
            self._add_idle(start - record.idle_ns, start, work)
        tokens = record.prefill_tokens + record.decode_tokens
        wait, busy = record.recv_wait_ns, record.compute_ns
        amounts = [1, wall, wall, wait, busy, busy, wait, record.gap_ns, tokens]
        for name in axes:
            if name not in known and len(known) < MAX_AXES and len(name) <= MAX_NAME:
                known.append(name)
        for name in known:
            axis = axes.get(name, _NO_CALLS)
            busy += axis.transfer_ns
            amounts += (axis.calls, axis.bytes, axis.wait_ns, axis.transfer_ns)
        amounts[_BUSY] = busy
        self._times.spread(start, end, amounts)
        if record.flops is not None and record.weight_bytes is not None and record.kv_bytes is not None:
            done = record.flops // KILO, record.weight_bytes, record.kv_bytes
            self._work.spread(start, end, done)
            self._done = [before + more for before, more in zip(self._done or (0, 0, 0), done, strict=True)]
        self._walls.add(end, wall)
        self._last = end, record.memory_bytes
        self._steps += 1
        if self.fault == "STALLED":
            self.fault = None

    def die(self, _time_ns: int) -> None:
        self.fault = "DEAD"

    def stall(self, _time_ns: int) -> None:
        self.fault = "STALLED"

    def suspend(self, time_ns: int) -> None:
        """A signal stopped its process."""
        self.resume(time_ns)
        self.fault = "SUSPENDED"
        self._suspensions.append((time_ns, None))

    def resume(self, time_ns: int) -> None:
        """Its process goes on."""
        if self._suspensions and self._suspensions[-1][1] is None:
            self._suspensions[-1] = self._suspensions[-1][0], time_ns
        if self.fault == "SUSPENDED":
            self.fault = None

    def add_experts(self, record: ExpertRecord) -> None:
        """Take the tokens of its experts, all layers together."""
        sums = [sum(column) for column in zip(*record.tokens, strict=False)]
        self._experts.spread(record.end_ns, record.end_ns, sums[:MAX_EXPERTS])

    def add_device(self, record: DeviceRecord) -> None:
        """Take what is newest of its device."""
        reasons = record.throttle or ()
        if len(reasons) > MAX_REASONS or any(len(reason) > MAX_NAME for reason in reasons):
            record = structs.replace(record, throttle=[reason[:MAX_NAME] for reason in reasons[:MAX_REASONS]])
        self._device = record

    def recount(self, axis: str, moved: Moved) -> None:
        """Count as wait what a step had counted as transfer, because its transport could not tell the two apart."""
        if axis in self._axes:
            amounts = [0] * (_AXES + 4 * len(self._axes))
            wait = _AXES + 4 * self._axes.index(axis) + 2
            amounts[_BUSY], amounts[wait], amounts[wait + 1] = -moved.ns, moved.ns, -moved.ns
            self._times.spread(moved.told.start_ns, moved.told.end_ns, amounts)

    def _add_idle(self, start: int, end: int, work: WorkTimeline) -> None:
        for begin, until, had_work in work.pieces(start, end):
            length = until - begin
            self._times.spread(begin, until, (0, length, length, length) if had_work else (0, length))
            end = begin
        if start < end:
            self._times.spread(start, end, (0, end - start))

    def view(
        self,
        info: RankInfo,
        state: str,
        work: WorkTimeline,
        lost: int,
        late_ms: Mapping[str, float],
        staged: bool,
        peaks: Peaks | None,
        now_ns: int,
        window_ns: int,
    ) -> RankView:
        """The rank at `now_ns`. `late_ms`: by axis; `staged`: it is one of several stages; `peaks`: of its device."""
        total = self._times.total(now_ns, window_ns)
        times = dict(zip(_TIMES, total, strict=False))
        steps = times.get("steps", 0.0)
        last_end = None if self._last is None else self._last[0]
        since = work.pieces(max(now_ns - window_ns, last_end or 0), now_ns)
        observed = times.get("observed", 0.0) + sum(until - begin for begin, until, had_work in since if not had_work)
        step_ns = self._walls.median_ns(now_ns - window_ns)
        experts = self._experts.total(now_ns, window_ns)

        def per_step_ms(part: str) -> float | None:
            return times.get(part, 0.0) / steps / 1e6 if steps > 0 else None

        return RankView(
            info=info,
            state=self.fault or state,
            util=_percent(times.get("busy", 0.0), observed),
            util_history=self._times.history(now_ns),
            bubble_pct=_percent(times.get("bubble", 0.0), times.get("work", 0.0)),
            step_ms=None if step_ns is None else step_ns / 1e6,
            compute_ms=per_step_ms("compute"),
            recv_wait_ms=per_step_ms("recv_wait"),
            gap_ms=per_step_ms("gap"),
            axes=self._axis_views(total, steps, late_ms),
            tokens_per_s=None if self._last is None else times.get("tokens", 0.0) / self._times.span_s(now_ns, window_ns),
            memory=self._memory_view(),
            expert_tokens=tuple(map(round, experts)) if experts else None,
            steps=self._steps,
            lost=lost,
            age_s=None if last_end is None else max(0, now_ns - last_end) / SECOND,
            split=self._split(times, sum(total[_AXES + 2 :: 4]), staged),
            device=self._device,
            suspended_s=self._suspended_s(now_ns, window_ns),
            work=self._work_view(times.get("work", 0.0) / SECOND, peaks, now_ns, window_ns),
        )

    def _suspended_s(self, now_ns: int, window_ns: int) -> float:
        edge, whole = now_ns - window_ns, 0
        for since, until in self._suspensions:
            whole += max(0, min(now_ns if until is None else until, now_ns) - max(since, edge))
        return whole / SECOND

    def _work_view(self, seconds: float, peaks: Peaks | None, now_ns: int, window_ns: int) -> WorkView | None:
        """`seconds`: of time with work in the window."""
        if not self._done:
            return None
        done = self._done[0] * KILO, self._done[1], self._done[2]
        total = self._work.total(now_ns, window_ns)
        if not total or seconds <= 0:
            return WorkView(None, None, None, None, None, *done)
        flops, weights, kv = total[0] * KILO, total[1], total[2]
        mfu = mbu = None
        if peaks is not None:
            mfu = 100 * model_flops_utilization(flops, seconds, peaks.flops)
            mbu = 100 * model_bandwidth_utilization(weights + kv, seconds, peaks.bandwidth)
        return WorkView(flops / seconds, weights / seconds, kv / seconds, mfu, mbu, *done)

    @staticmethod
    def _split(times: Mapping[str, float], wait: float, staged: bool) -> TimeSplit | None:
        compute, transfer = times.get("compute", 0.0), times.get("busy", 0.0) - times.get("compute", 0.0)
        idle = times.get("bubble", 0.0) - times.get("recv_wait", 0.0)  # with work
        stage = times.get("recv_wait", 0.0) + (idle if staged else 0.0)
        host = times.get("work", 0.0) - compute - transfer - wait - stage
        parts = [max(0.0, part) for part in (compute, transfer, wait, stage, host)]
        whole = sum(parts)
        return TimeSplit(*(100 * part / whole for part in parts)) if whole > 0 else None

    def _axis_views(self, total: list[float], steps: float, late_ms: Mapping[str, float]) -> dict[str, AxisView]:
        views = {}
        for place, name in enumerate(self._axes):
            column = _AXES + 4 * place
            sums = total[column : column + 4]
            if steps > 0 and len(sums) == 4 and any(sums):
                calls, size, wait, transfer = (amount / steps for amount in sums)
                views[name] = AxisView(calls, size, wait / 1e6, transfer / 1e6, late_ms.get(name))
        return dict(sorted(views.items()))

    def _memory_view(self) -> MemoryView:
        """What the rank holds now is what it says of it together with the parts; else the newer of its last step's figure and the
        driver's or kernel's."""
        memory, device, step = self.memory, self._device, self._last
        told: list[tuple[int, int | None]] = []
        if step is not None:
            told.append(step)
        if device is not None and (device.gpu_memory_used is None or step is None):
            told.append((device.time_ns, device.rss if device.gpu_memory_used is None else device.gpu_memory_used))
        used = max(((when, size) for when, size in told if size is not None), default=(0, None))[1]
        device_total = device.gpu_memory_total if device else None
        if memory is None:
            return MemoryView(used=used, total=device_total)
        return MemoryView(
            weights=memory.weights,
            kv=memory.kv,
            activations=memory.activations,
            used=used if memory.used is None else memory.used,
            total=device_total if memory.total is None else memory.total,
            free=memory.free,
            workspace=memory.workspace,
            other=memory.other,
            peak=memory.peak,
        )

    def state(self, now_ns: int, window_ns: int) -> RankState:
        """All that views from `now` on can show of what came so far."""
        times, experts = self._times.state(now_ns, window_ns), self._experts.state(now_ns, window_ns)
        walls = self._walls.state(now_ns - window_ns)
        work = self._work.state(now_ns, window_ns) if self._done else None
        who = self.memory, self._device, self.fault, self._last, self._steps, list(self._axes)
        return RankState(*who, times, experts, walls, work, self._done, list(self._suspensions))

    def restore(self, state: RankState) -> None:
        """Become what `state` was taken of. Raises ValueError when it can be of no rank."""
        self.memory, self._device, self.fault = state.memory, state.device, state.fault
        last = state.last
        self._last = (last.start_ns + last.wall_ns, last.memory_bytes) if isinstance(last, StepRecord) else last
        self._steps = state.steps
        if len(state.axes) > MAX_AXES or any(len(row) > _AXES + 4 * len(state.axes) for row in state.times.rows.values()):
            raise ValueError("more columns than axes")
        self._axes = list(state.axes)
        self._times.restore(state.times)
        self._experts.restore(state.experts)
        self._walls.restore(state.walls)
        self._suspensions.extend(state.suspensions)
        if state.work is not None:
            if len(state.done) != 3 or any(len(row) != 3 for row in state.work.rows.values()):
                raise ValueError("work in other columns")
            self._work.restore(state.work)
            self._done = state.done


def _percent(part: float, whole: float) -> float | None:
    return min(100.0, 100 * max(0.0, part) / whole) if whole > 0 else None
