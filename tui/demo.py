"""A scripted source: the same second always gives the same snapshot. For tests, for `--source demo`, and for nothing else:
none of its figures was measured, which its name says on every screen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from runtime.layout import Layout
from telemetry.records import EventRecord, RankInfo
from telemetry.snapshot import AxisView, DeploymentView, EngineView, MemoryView, RankView, Snapshot

CYCLE_S = 180.0
_LAUNCH_S = 9.0
_PHASES = ((1.5, "spawn"), (7.0, "load"), (9.0, "warm-up"))
_QUIET = (70.0, 84.0)  # no request arrives
_LATE = (30.0, 60.0)  # rank 3 computes longer than the others
_DEATH = 110.0  # rank 1 dies, the group is launched again
_FAILED = (150.0, 170.0)
_LAYERS = 48
_TOTAL = 141_000_000_000
_EVENTS = (
    (0.0, "info", "state", "launch 1", None),
    (9.0, "info", "state", "READY after 9.0 s", None),
    (31.0, "warning", "straggler", "computes 1.3x as long as the rest of its tp group", 3),
    (61.0, "info", "straggler", "keeps up again", 3),
    (_DEATH, "error", "rank-died", "exit code -9 during all-reduce 48,213 of tp; 12 streams ended with an error", 1),
    (_DEATH + 0.5, "info", "state", "launch 2 after the death of rank 1", None),
    (_DEATH + _LAUNCH_S, "info", "state", "READY after 9.0 s", None),
    (_FAILED[0], "error", "state", "FAILED: 3 launches failed within 60 s", None),
)


class DemoSource:
    """Plays the script, over and over. `clock` gives seconds since its beginning."""

    name = "scripted demo"
    problem = ""

    def __init__(self, layout: Layout | None = None, clock: Callable[[], float] | None = None) -> None:
        self._layout = layout or Layout(tp=2, pp=2)
        begun = time.monotonic()
        self._clock = clock or (lambda: 12.0 + time.monotonic() - begun)
        self._latest: Snapshot | None = None

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def latest(self) -> Snapshot:
        tick = math.floor(self._clock() * 4) / 4  # four snapshots a second, as from a hub
        if self._latest is None or self._latest.time_ns != round(tick * 1e9):
            self._latest = script(tick, self._layout)
        return self._latest

    def age(self) -> float:
        return self._clock() - self.latest().time_ns / 1e9


def script(at: float, layout: Layout, emulated: bool = False) -> Snapshot:
    """What there is to see `at` that second of the script."""
    moment = at % CYCLE_S
    first = deployment(moment, "qwen3-30b", layout, emulated)
    second = deployment(40.0 + moment % 25.0, "llama-1b", Layout(dp=2), emulated)
    begin = at - moment
    events = tuple(
        EventRecord("qwen3-30b", 1, round((begin + when) * 1e9), severity, kind, text, rank)
        for when, severity, kind, text, rank in _EVENTS
        if when <= moment
    )
    return Snapshot(round(at * 1e9), 10.0, (first, second), events, 0)


def deployment(moment: float, name: str, layout: Layout, emulated: bool = False) -> DeploymentView:
    """One deployment at a moment of the script."""
    since, generation = (moment, 1) if moment < _DEATH else (moment - _DEATH, 2)
    failed = _FAILED[0] <= moment < _FAILED[1]
    starting = since < _LAUNCH_S
    state = "FAILED" if failed else "READY" if not starting else "STARTING" if generation == 1 else "RESTARTING"
    phase, progress = _phase(since) if starting else ("", None)
    busy = state == "READY"
    return DeploymentView(
        name=name,
        state=state,
        generation=generation,
        model=f"/models/{name}-a3b" if name.startswith("qwen") else f"/models/{name}",
        layout=layout.asdict(),
        device="H200",
        dtype="bfloat16",
        emulated=emulated,
        phase=phase,
        progress=progress,
        reason="rank 1: CUDA out of memory: 3.2 GiB asked, 1.1 GiB free (weights 71.4, KV 66.2)" if failed else "",
        engine=_engine(moment, since if busy else 0.0),
        ranks=tuple(_rank(rank, layout, moment, state, since) for rank in range(layout.world_size)),
    )


def _phase(since: float) -> tuple[str, float]:
    begin = 0.0
    for end, name in _PHASES:
        if since < end:
            return name, (since - begin) / (end - begin)
        begin = end
    return "", 1.0


def _load(moment: float) -> float:
    """Demand, 0 to 1: waves, and a quiet time."""
    if _QUIET[0] <= moment < _QUIET[1]:
        return 0.0
    return 0.72 + 0.2 * math.sin(moment / 7) + 0.06 * math.sin(moment * 1.7)


def _engine(moment: float, ready_s: float) -> EngineView:
    load = _load(moment) if ready_s else 0.0
    seconds = min(60, int(ready_s))
    history = tuple(1650 * _load(moment - (seconds - 1 - i)) for i in range(seconds))
    return EngineView(
        running=round(48 * load),
        waiting=max(0, round(30 * (load - 0.85))),
        kv_used=round(9_600 * load),
        kv_cached=round(1_100 * (1 - load / 2)) if ready_s else 0,
        kv_total=10_240 if ready_s else 0,
        tokens_per_s=1650 * load,
        prompt_tokens_per_s=3100 * load,
        tokens_history=history,
        prompt_tokens=round(3000 * moment),
        generated_tokens=round(1500 * moment),
        finished=round(5.8 * moment),
        aborted=0,
        preemptions=2 if moment > 45 else 0,
        prefix_hit_rate=0.38 if ready_s else None,
        ttft_ms_p50=138.0 + 90 * load if load else None,
        ttft_ms_p99=301.0 + 200 * load if load else None,
        itl_ms_p50=21.0 + 6 * load if load else None,
    )


def _rank(rank: int, layout: Layout, moment: float, state: str, since: float) -> RankView:
    at = layout.coordinates(rank)
    each = _LAYERS // layout.pp
    info = RankInfo(rank, *at, 4100 + rank, f"cuda:{rank}", at.pp * each, (at.pp + 1) * each - 1)
    if state != "READY":
        own = "DEAD" if state == "FAILED" and rank == 1 else state
        return _silent(info, own, since)
    late = 1.3 if rank == 3 and _LATE[0] <= moment < _LATE[1] else 1.0
    load = _load(moment)
    slow = any(_LATE[0] <= moment < _LATE[1] and peer == 3 for peer in layout.group(rank, "tp"))
    compute = 13.0 * late * (1.0 + 0.12 * at.pp)
    wait = 0.4 + 0.1 * at.tp + (3.9 if slow and rank != 3 else 0.0) if layout.tp > 1 else 0.0
    arrives = 2.0 + 2.5 * (layout.pp - 1 - at.pp) if layout.pp > 1 else 0.0
    axes = {"tp": AxisView(48.0, 4.2e6, wait, 1.7)} if layout.tp > 1 else {}
    if layout.ep > 1:
        axes["ep"] = AxisView(96.0, 8.4e6, 0.6, 1.9)
    step = compute + arrives + 0.9 + sum(axis.wait_ms + axis.transfer_ms for axis in axes.values())
    busy = 100 * (step - arrives - wait - 0.9) / step
    seconds = min(60, int(since))
    history = tuple(busy * min(1.0, 1.1 * _load(moment - (seconds - 1 - i))) for i in range(seconds))
    return RankView(
        info=info,
        state=state,
        util=busy * min(1.0, 1.1 * load),
        util_history=history,
        bubble_pct=100 * (arrives + 0.3) / step if load else 0.0,
        step_ms=step if load else None,
        compute_ms=compute if load else None,
        recv_wait_ms=arrives if load else None,
        gap_ms=0.9 if load else None,
        axes=axes if load else {},
        tokens_per_s=1650 * load,
        memory=MemoryView(58_200_000_000, 66_000_000_000, 9_600_000_000, 134_500_000_000, _TOTAL, _TOTAL - 134_500_000_000),
        cpu_percent=97.0,
        gpu_util=busy,
        power_w=400 + 240 * load,
        temperature_c=55 + 15 * load,
        expert_tokens=None,
        steps=round(40 * moment),
        lost=0,
        age_s=0.1 if load else moment - _QUIET[0],
    )


def _silent(info: RankInfo, state: str, since: float) -> RankView:
    """A rank that has not made a step yet: nothing but its memory is known."""
    loaded = round(58.2e9 * min(1.0, max(0.0, (since - 1.5) / 5.5)))
    memory = MemoryView(weights=loaded or None, used=loaded + 600_000_000, total=_TOTAL)
    return RankView(
        info=info,
        state=state,
        util=None,
        util_history=(),
        bubble_pct=None,
        step_ms=None,
        compute_ms=None,
        recv_wait_ms=None,
        gap_ms=None,
        axes={},
        tokens_per_s=None,
        memory=memory,
        cpu_percent=None,
        gpu_util=None,
        power_w=None,
        temperature_c=None,
        expert_tokens=None,
        steps=0,
        lost=0,
        age_s=None,
    )
