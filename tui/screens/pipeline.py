"""Screen 3: what each stage and rank does when, to scale, with the step under the cursor."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from telemetry.records import StepRecord
from telemetry.snapshot import DeploymentView
from tui import keys
from tui.screens.view import View
from tui.session import Session
from tui.view.frame import Frame
from tui.view.manual import Glossary
from tui.view.options import chosen
from tui.view.pipeline import Look, Scene, by_rank, pipeline, scene, scrolled, stepped, zoomed

_GLOSSARY: Glossary = (
    (
        "F0 D1 M2",
        "forward pass of prefill, decode, or both, and the slot of its micro-batch; the waits in collectives are inside",
    ),
    ("· ░ :", "waits for the previous stage's output; idle while another rank of the replica works; host time of a step"),
    ("> s", "hands the hidden states on; samples; blank: no rank of the replica was at work"),
    ("work", "of the time that is drawn: forward, send and sample, less the waits for late ranks in collectives"),
    ("bubble", "of the time that is drawn: waiting for input, and idle while others work; below: of the window"),
    ("theory", "idle share of even stages in steady decode with the micro-batches now in flight: 1 - m/p, 0 from m = p on"),
    ("exposed", "share of the step's wall time in collectives, wait and transfer: nothing is overlapped with compute"),
)


class PipelineScreen(View):
    KEYS = keys.PIPELINE
    GLOSSARY = _GLOSSARY

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._look = Look()

    def frame(self, columns: int, rows: int) -> Frame:
        snapshot, feed = self.session.look()
        deployment = chosen(snapshot, self.session.options)
        if feed.paused_s is None:
            self._look = self._look.live()
        records = self.session.timeline(deployment.name) if deployment else ()
        return pipeline(snapshot, records, feed, self.session.options, self._look, self.usable_keys(), columns, rows)

    def action_next_form(self) -> None:
        deployment = chosen(self.session.look()[0], self.session.options)
        if deployment is not None:
            self._look = replace(self._look, by_rank=not by_rank(deployment, self._look), row=0, step=None)
            self.redraw()

    def action_next_group(self) -> None:
        self._look = replace(self._look, group=self._look.group + 1, step=None)
        self.redraw()

    def action_row(self, step: int) -> None:
        shown = self._scene()
        if shown is not None:
            self._look = replace(self._look, row=max(0, min(len(shown.lanes) - 1, shown.row + step)), step=None)
            self.redraw()

    def action_scroll_time(self, quarters: int) -> None:
        self._change(lambda shown, look: scrolled(shown, look, quarters / 4), freeze=True)

    def action_step(self, count: int) -> None:
        self._change(lambda shown, look: stepped(shown, look, count), freeze=True)

    def action_zoom(self, step: int) -> None:
        self._change(lambda shown, look: zoomed(shown, look, step), freeze=False)

    def action_export(self) -> None:
        """All ranks' steps of the last seconds that are known, whatever part of them is in sight."""
        deployment = chosen(self.session.look()[0], self.session.options)
        records = self.session.timeline(deployment.name) if deployment is not None else ()
        if deployment is None or not records:
            self.notify("Nothing to export: no step in the last seconds.", severity="warning")
        else:
            self.run_worker(partial(self._export, deployment, records), thread=True, group="export")

    def _export(self, deployment: DeploymentView, records: Sequence[StepRecord]) -> None:
        from profiles.chrome import export_steps

        name = re.sub(r"[^\w.+-]", "_", deployment.name)
        try:
            out = Path.cwd() / f"{name}-steps-{time.strftime('%Y%m%d-%H%M%S')}.json"
            export_steps(deployment.name, [rank.info for rank in deployment.ranks], records, out)
        except OSError as error:
            self.notify(f"Not exported: {error}", severity="error", timeout=10)
        else:
            self.notify(f"{len(records):,} steps are in {out}.", timeout=10)

    def _change(self, change: Callable[[Scene, Look], Look], freeze: bool) -> None:
        """What goes to the past pauses the screen first, because a live timeline runs away."""
        if freeze and self.session.look()[1].paused_s is None:
            self.session.pause_or_resume()
        shown = self._scene()
        if shown is not None:
            self._look = change(shown, self._look)
        self.redraw()

    def _scene(self) -> Scene | None:
        deployment = chosen(self.session.look()[0], self.session.options)
        return scene(deployment, self.session.timeline(deployment.name), self._look) if deployment else None
