"""The same steps of concurrency under one layout after the other, on a live deployment, which gets its first layout back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runtime.client import ControlClient, DaemonError, GivenUp
from runtime.control import Changed
from runtime.layout import AXES, Layout
from runtime.stress.result import Steps, Sweep, Trial
from runtime.stress.values import BadPlan
from telemetry.snapshot import DeploymentView

PATIENCE_S = 300.0  # for a change under way, or a relaunch, to end

Say = Callable[[str], None]


class Reconfigurable:
    """A deployment whose layout is changed and changed back. `stop` ends the waiting, not the change."""

    def __init__(self, run_dir: Path | None, name: str, say: Say, stop: threading.Event) -> None:
        self.name = name
        self._run_dir, self._say, self._stop = run_dir, say, stop

    def layout(self) -> Layout:
        """Raises DaemonError."""
        return Layout(**{axis: self._view().layout.get(axis, 1) for axis in AXES})

    def change(self, layout: Layout) -> float:
        """Seconds without tokens. Raises DaemonError with the reason when it serves as before, GivenUp when stopped."""
        with ControlClient(self._run_dir, self._stop.is_set) as client:
            return self._change(client, layout)

    def restore(self, layout: Layout) -> str:
        """Why it could not be; empty when it serves so. Waits for a change under way, and is not stopped."""
        try:
            self.rest()
            if self.layout() != layout:
                with ControlClient(self._run_dir) as client:
                    self._change(client, layout)
        except (DaemonError, KeyboardInterrupt) as error:
            return str(error) or "interrupted"
        return ""

    def rest(self) -> None:
        """Wait until it serves. Raises DaemonError when it has failed or takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while (view := self._view()).state != "READY":
            if view.state in ("FAILED", "STOPPED"):
                raise DaemonError(f"'{self.name}' is {view.state}: {view.reason}")
            if time.monotonic() > deadline:
                raise DaemonError(f"'{self.name}' is {view.state} for more than {PATIENCE_S:.0f} s")
            time.sleep(0.2)

    def _change(self, client: ControlClient, layout: Layout) -> float:
        seconds = 0.0
        for news in client.reconfigure(self.name, dict(layout.asdict())):
            if isinstance(news, Changed):
                seconds = news.seconds
            else:
                share = f" {100 * news.share:.0f} %" if news.share is not None else ""
                self._say(f"{layout}: {news.phase or news.state.lower()}{share}")
        return seconds

    def _view(self) -> DeploymentView:
        with ControlClient(self._run_dir) as client:
            found = next((view for view in client.snapshot().deployments if view.name == self.name), None)
        if found is None:
            raise DaemonError(f"the daemon has no deployment '{self.name}' any more")
        return found


def run_sweep(
    layouts: tuple[Layout, ...],
    deployment: Reconfigurable,
    steps: Callable[[Layout], Steps],
    on_trial: Callable[[Trial], None],
    stop: threading.Event,
) -> Sweep:
    """Every layout in turn; what does not fit or is refused is marked with the reason. The first layout is restored, whatever
    happens meanwhile. Raises DaemonError when there is nothing to begin with."""
    first = deployment.layout()
    trials: list[Trial] = []
    interrupted = False
    try:
        for layout in layouts:
            trial, cut = _try(layout, deployment, steps)
            interrupted = cut or stop.is_set()
            if trial is not None:
                trials.append(trial)
                on_trial(trial)
            if interrupted:
                break
    finally:
        unrestored = deployment.restore(first)
    return Sweep(deployment.name, str(first), tuple(trials), interrupted, unrestored)


def _try(layout: Layout, deployment: Reconfigurable, steps: Callable[[Layout], Steps]) -> tuple[Trial | None, bool]:
    """What came of it, and whether we were stopped meanwhile."""
    try:
        pause_s = deployment.change(layout)
        found = steps(layout)
    except GivenUp:
        return None, True
    except BadPlan as error:  # its KV cache holds less than a request needs
        return Trial(str(layout), why=str(error)), False
    except DaemonError as error:
        with suppress(DaemonError):
            deployment.rest()
        return Trial(str(layout), why=str(error)), False
    return Trial(str(layout), pause_s, found.steps, found.knee), found.interrupted
