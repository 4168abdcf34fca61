"""The fold of one rank in one generation: where its time went, its memory, its device."""

from __future__ import annotations

from collections import deque
from itertools import dropwhile

from msgspec import Struct

from telemetry.formulas import percentile
from telemetry.records import AxisTime, DeviceRecord, RankInfo, RankMemory, StepRecord
from telemetry.series import SECOND, Seconds, SecondsState, WorkTimeline
from telemetry.snapshot import AxisView, MemoryView, RankView

MAX_STEPS = 256  # the latest steps, for the median
MAX_AXES = 8

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
_NO_CALLS = AxisTime()
_NO_DEVICE = DeviceRecord(rank=0, generation=0, time_ns=0)


class RankState(Struct, frozen=True, array_like=True):
    """All that a `RankFold` can still show."""

    memory: RankMemory | None
    device: DeviceRecord | None
    fault: str | None
    last: StepRecord | None
    steps: int
    axes: list[str]
    times: SecondsState
    experts: SecondsState
    walls: list[tuple[int, int]]


class RankFold:
    """Step, memory and device records of one rank, folded."""

    def __init__(self) -> None:
        self.memory: RankMemory | None = None
        self.device: DeviceRecord | None = None
        self.fault: str | None = None  # "DEAD", "STALLED": what an event said of it since its last step
        self._last: StepRecord | None = None
        self._steps = 0
        self._axes: list[str] = []  # in the order in which they came
        self._times = Seconds(shown=_TIMES.index("busy"))  # columns: _TIMES, then the fields of AxisTime for each axis
        self._experts = Seconds()  # a column an expert
        self._walls: deque[tuple[int, int]] = deque(maxlen=MAX_STEPS)  # (end, wall) ns

    def add_step(self, record: StepRecord, work: WorkTimeline) -> None:
        """Take a step; `work` tells which part of the idle time before it was time with work."""
        start, end = record.start_ns, record.start_ns + record.wall_ns
        transfer = sum(axis.transfer_ns for axis in record.axes.values())
        if record.idle_ns > 0:
            self._add_idle(start - record.idle_ns, start, work)
        wall, tokens = record.wall_ns, record.prefill_tokens + record.decode_tokens
        wait, compute = record.recv_wait_ns, record.compute_ns
        amounts = [1, wall, wall, wait, compute + transfer, compute, wait, record.gap_ns, tokens]
        self._axes += [name for name in record.axes if name not in self._axes][: MAX_AXES - len(self._axes)]
        for name in self._axes:
            axis = record.axes.get(name, _NO_CALLS)
            amounts += (axis.calls, axis.bytes, axis.wait_ns, axis.transfer_ns)
        self._times.spread(start, end, amounts)
        if record.expert_tokens:
            self._experts.spread(start, end, record.expert_tokens)
        self._walls.append((end, record.wall_ns))
        self._last = record
        self._steps += 1
        if self.fault == "STALLED":
            self.fault = None

    def _add_idle(self, start: int, end: int, work: WorkTimeline) -> None:
        for begin, until, had_work in work.pieces(start, end):
            length = until - begin
            self._times.spread(begin, until, (0, length, length, length) if had_work else (0, length))
            end = begin
        if start < end:
            self._times.spread(start, end, (0, end - start))

    def view(self, info: RankInfo, state: str, work: WorkTimeline, lost: int, now_ns: int, window_ns: int) -> RankView:
        """The rank at `now_ns`."""
        total = self._times.total(now_ns, window_ns)
        times = dict(zip(_TIMES, total, strict=False))
        steps = times.get("steps", 0.0)
        last_end = None if self._last is None else self._last.start_ns + self._last.wall_ns
        since = work.pieces(max(now_ns - window_ns, last_end or 0), now_ns)
        observed = times.get("observed", 0.0) + sum(until - begin for begin, until, had_work in since if not had_work)
        with_work = times.get("work", 0.0)
        walls = [wall / 1e6 for end, wall in self._walls if end > now_ns - window_ns]
        experts = self._experts.total(now_ns, window_ns)
        device = self.device or _NO_DEVICE

        def per_step_ms(part: str) -> float | None:
            return times.get(part, 0.0) / steps / 1e6 if steps > 0 else None

        return RankView(
            info=info,
            state=self.fault or state,
            util=_percent(times.get("busy", 0.0), observed),
            util_history=tuple(min(100.0, 100 * busy / SECOND) for busy in self._times.history(now_ns)),
            bubble_pct=_percent(times.get("bubble", 0.0), with_work),
            step_ms=percentile(walls, 50),
            compute_ms=per_step_ms("compute"),
            recv_wait_ms=per_step_ms("recv_wait"),
            gap_ms=per_step_ms("gap"),
            axes=self._axis_views(total, steps),
            tokens_per_s=None if self._last is None else times.get("tokens", 0.0) / self._times.span_s(now_ns, window_ns),
            memory=self._memory_view(),
            cpu_percent=device.cpu_percent,
            gpu_util=device.gpu_util,
            power_w=device.power_w,
            temperature_c=device.temperature_c,
            expert_tokens=tuple(map(round, experts)) if experts else None,
            steps=self._steps,
            lost=lost,
            age_s=None if last_end is None else max(0, now_ns - last_end) / SECOND,
        )

    def _axis_views(self, total: list[float], steps: float) -> dict[str, AxisView]:
        views = {}
        for place, name in enumerate(self._axes):
            column = len(_TIMES) + 4 * place
            sums = total[column : column + 4]
            if steps > 0 and len(sums) == 4 and any(sums):
                calls, size, wait, transfer = (amount / steps for amount in sums)
                views[name] = AxisView(calls, size, wait / 1e6, transfer / 1e6)
        return dict(sorted(views.items()))

    def _memory_view(self) -> MemoryView:
        """What the rank holds now is the newer of its last step's figure and the driver's or kernel's."""
        memory, device, step = self.memory, self.device, self._last
        told: list[tuple[int, int | None]] = []
        if step is not None:
            told.append((step.start_ns + step.wall_ns, step.memory_bytes))
        if device is not None and (device.gpu_memory_used is None or step is None):
            told.append((device.time_ns, device.rss if device.gpu_memory_used is None else device.gpu_memory_used))
        used = max(((when, size) for when, size in told if size is not None), default=(0, None))[1]
        total = memory.total if memory else None
        return MemoryView(
            weights=memory.weights if memory else None,
            kv=memory.kv if memory else None,
            activations=memory.activations if memory else None,
            used=used,
            total=total if total is not None or device is None else device.gpu_memory_total,
            free=memory.free if memory else None,
        )

    def state(self, now_ns: int, window_ns: int) -> RankState:
        """All that views from `now` on can show of what came so far."""
        times, experts = self._times.state(now_ns, window_ns), self._experts.state(now_ns, window_ns)
        # not only the steps in the window but all from the first of them on: the oldest make room in the same order
        walls = list(dropwhile(lambda step: step[0] <= now_ns - window_ns, self._walls))
        return RankState(self.memory, self.device, self.fault, self._last, self._steps, list(self._axes), times, experts, walls)

    def restore(self, state: RankState) -> None:
        """Become what `state` was taken of. Raises ValueError when it can be of no rank."""
        self.memory, self.device, self.fault = state.memory, state.device, state.fault
        self._last, self._steps = state.last, state.steps
        if len(state.axes) > MAX_AXES or any(len(row) > len(_TIMES) + 4 * len(state.axes) for row in state.times.rows.values()):
            raise ValueError("more columns than axes")
        self._axes = list(state.axes)
        self._times.restore(state.times)
        self._experts.restore(state.experts)
        self._walls.extend(state.walls)


def _percent(part: float, whole: float) -> float | None:
    return min(100.0, 100 * max(0.0, part) / whole) if whole > 0 else None
