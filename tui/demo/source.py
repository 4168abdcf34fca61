"""The script as a source: snapshots and timelines of the demo's two deployments by the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from runtime.layout import Layout
from telemetry.records import StepRecord
from telemetry.snapshot import DeploymentView, Snapshot
from tui.demo import figures, story
from tui.demo.experts import LAYERS
from tui.demo.ranks import PEAKS, WEIGHTS, rank_view
from tui.demo.schedule import Script
from tui.demo.timeline import timeline

MOE, DENSE = "qwen3-30b", "llama-1b"
MAX_RANKS = 64
_BEGIN_S = 12.0  # of a demo that a user starts: there is something to see at once


class DemoSource:
    """Plays the script, over and over. `clock` gives seconds since its beginning."""

    name = "scripted demo"
    problem = ""

    def __init__(self, layout: Layout | None = None, clock: Callable[[], float] | None = None) -> None:
        """Raises ValueError for more ranks than are scripted four times a second, and for more stages than layers."""
        self._layout = layout or Layout(tp=2, pp=2)
        if self._layout.world_size > MAX_RANKS or self._layout.pp > LAYERS:
            size, pp = self._layout.world_size, self._layout.pp
            raise ValueError(
                f"{size} ranks in {pp} stages: the script has at most {MAX_RANKS} ranks, and {LAYERS} layers for stages"
            )
        begun = time.monotonic()
        self._clock = clock or (lambda: _BEGIN_S + time.monotonic() - begun)
        self._latest: Snapshot | None = None
        self._timelines: dict[tuple[str, float], tuple[StepRecord, ...]] = {}

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

    def timeline(self, deployment: str) -> tuple[StepRecord, ...]:
        """The step records of the last three seconds, all ranks, oldest first."""
        at = self.latest().time_ns / 1e9
        if (deployment, at) not in self._timelines:
            found = next((one for one in _scripts(self._layout) if one.name == deployment), None)
            self._timelines = {(deployment, at): timeline(found, at) if found else ()}
        return self._timelines[deployment, at]


def _scripts(layout: Layout) -> tuple[Script, ...]:
    return Script(MOE, layout), Script(DENSE, Layout(dp=2), 40.0, 25.0)


def script(at: float, layout: Layout, emulated: bool = False) -> Snapshot:
    """What there is to see `at` that second of the script."""
    views = tuple(deployment(one, at, emulated) for one in _scripts(layout))
    moment = at % story.CYCLE_S
    return Snapshot(round(at * 1e9), figures.WINDOW_S, views, story.events(MOE, at - moment, moment), 0)


def deployment(script: Script, at: float, emulated: bool = False) -> DeploymentView:
    """One deployment at a second of the script."""
    moment = script.moment(at)
    since, generation = story.launched(moment)
    state = story.state(moment)
    starting = state in ("STARTING", "RESTARTING")
    phase, progress, begun = story.start_phase(since) if starting else ("", None, 0.0)
    return DeploymentView(
        name=script.name,
        state=state,
        generation=generation,
        peaks=PEAKS,
        model=f"/models/{script.name}-a3b" if script.name == MOE else f"/models/{script.name}",
        layout=script.layout.asdict(),
        device="H200",
        dtype="bfloat16",
        emulated=emulated,
        phase=phase,
        progress=progress,
        loaded=round(WEIGHTS * progress) if phase == "load" and progress is not None else None,
        to_load=WEIGHTS if phase == "load" else None,
        phase_ns=round(1e9 * (at - since + begun)) if starting else None,
        no_demand_pct=figures.no_demand(script, at),
        reason="rank 1: CUDA out of memory: 3.2 GiB asked, 1.1 GiB free (weights 71.4, KV 66.2)" if state == "FAILED" else "",
        engine=figures.engine(script, at),
        ranks=tuple(rank_view(script, at, rank) for rank in range(script.layout.world_size)),
        collectives=figures.collectives(script, at),
        experts=figures.experts(script, int(at)),
        ideal_bubble_pct=figures.ideal_bubble(script, at),
    )
