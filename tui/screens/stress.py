"""Screen 7: put a load on the deployment, and see what its clients see."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from textual import on
from textual.message import Message

from runtime.stress.progress import WINDOWS, LoadState
from telemetry.snapshot import DeploymentView
from tui import keys
from tui.keys import STEER, Key
from tui.screens.confirm import ConfirmScreen
from tui.screens.form import FormView
from tui.session import Session
from tui.view.form import Field, Form
from tui.view.frame import Frame
from tui.view.manual import Glossary
from tui.view.options import chosen
from tui.view.stress import Stress, confirmation, stress
from tui.view.stress_form import Wrong, asked_for, load_form, load_words

if TYPE_CHECKING:
    from profiles.replay import ReplaySource
    from runtime.stress.asked import Asked

_MOST = 100  # completions
_GLOSSARY: Glossary = (
    ("closed, open", "closed: clients wait for their answers, so a slow server is asked less; open: requests/s whatever happens"),
    ("TTFT, E2E", "first, last event of an answer - intended send: a request that we send late counts from when it was due"),
    ("ITL, TPOT", "gap between two events; (last event - first event) / (output tokens - 1)"),
    ("window", "live percentiles are exact to 1% and of answers that ended in the window; those at the end are exact"),
    ("SLO", "✓ p99 keeps the limit; × over at the lowest percentile that does not. Goodput judges each answer, errors did not"),
    ("honest", "lag: requests left when due; late: answers were seen when they came; the generator had processor time to spare"),
    ("knee", "the most throughput for its delay: output tokens/s / E2E p50"),
)


class Running(Protocol):
    """A load that was started, looked at and stopped without waiting: `runtime.stress.job.Job`."""

    @property
    def state(self) -> LoadState: ...

    def stop(self) -> None: ...


Starter = Callable[[str, "Asked", Path | None, Callable[[], None]], Running]


def start(name: str, asked: Asked, run_dir: Path | None, on_end: Callable[[], None]) -> Running:
    from runtime.stress.job import Job

    return Job(name, asked, run_dir, on_end)


class Over(Message):
    """The load has ended."""


class StressScreen(FormView):
    KEYS = keys.STRESS
    GLOSSARY = _GLOSSARY

    def __init__(self, session: Session, starter: Starter = start) -> None:
        super().__init__(session)
        self._starter = starter
        self._form = load_form()
        self._wrong: dict[str, str] = {}
        self._load: Running | None = None
        self._window = next(iter(WINDOWS))
        self._read: tuple[ReplaySource, LoadState | None] | None = None

    def on_unmount(self) -> None:
        if self._load is not None:
            self._load.stop()

    def frame(self, columns: int, rows: int) -> Frame:
        snapshot, feed = self.session.look()
        return stress(snapshot, feed, self.session.options, self.usable_keys(), self._shown(), columns, rows - self.typing)

    def _shown(self) -> Stress:
        state = self._recorded() or (self._load.state if self._load is not None else None)
        recording = state.recording.path if state is not None and state.recording is not None else ""
        obstacle = self.session.obstacle(STEER)
        written = _written(recording) if recording else None
        return Stress(self._form, self._wrong, obstacle, self.found, self.choice, state, self._window, written)

    def _recorded(self) -> LoadState | None:
        """The load that the recording under replay was made of."""
        replay = self.session.replay
        if replay is None:
            return None
        if self._read is None or self._read[0] is not replay:
            self._read = replay, _found_in(replay)
        return self._read[1]

    @property
    def _phase(self) -> str:
        """What the screen shows: "asking", "running", "over" or "recorded"."""
        if self._recorded() is not None:
            return "recorded"
        if self._load is None:
            return "asking"
        return "running" if self._load.state.alive else "over"

    def usable_keys(self) -> Sequence[Key]:
        if self.typing:
            return super().usable_keys()
        off = {method for methods in keys.STRESS_WHILE.values() for method in methods} - {*keys.STRESS_WHILE.get(self._phase, ())}
        return [key for key in super().usable_keys() if key.method not in off]

    def _deployment(self) -> DeploymentView | None:
        return chosen(self.session.look()[0], self.session.options)

    # The form

    @property
    def form(self) -> Form:
        return self._form

    def edit(self, form: Form) -> None:
        self._form = load_form(form.edits, form.at)
        self._check()
        self.redraw()

    def _check(self) -> Asked | None:
        """What the form asks for; what is wrong with it is shown."""
        try:
            wanted = asked_for(self._form)
        except Wrong as error:
            self._wrong = error.fields
            return None
        self._wrong = {}
        return wanted

    def completions(self, field: Field, text: str) -> Sequence[str]:
        return traces(text)

    def action_move(self, step: int) -> None:
        """The mark; where there is no form, the lines."""
        if self._phase == "asking":
            super().action_move(step)
        else:
            self.action_scroll(step)

    def action_turn(self, step: int) -> None:
        if self._phase == "asking":
            super().action_turn(step)

    def action_type(self) -> None:
        """A choice has nothing to type: it turns."""
        if self._phase != "asking":
            return
        if self.form.marked.kind == "choice":
            self.action_turn(1)
        else:
            super().action_type()

    def action_reset(self) -> None:
        if self._phase == "asking":
            self.edit(load_form())

    # The load

    def action_start(self) -> None:
        """Begin; ask first when others are at work on the deployment."""
        deployment = self._deployment()
        if self._phase == "running":
            stops = keys.hint(self.all_keys(), "stop_load", "; {} stops it")
            self.app.notify(f"Not now: a load is running{stops}.", severity="warning")
        elif self._phase == "over":
            self.action_new()
        elif deployment is None:
            self.app.notify("Nothing is deployed, so there is nothing to put a load on.", severity="warning")
        elif self._check() is None:
            self._show_wrong()
        elif deployment.engine.running + deployment.engine.waiting:
            words = partial(confirmation, deployment, load_words(self._form))
            self.app.push_screen(ConfirmScreen(words), self._confirmed)
        else:
            self._confirmed(True)

    def _show_wrong(self) -> None:
        """Mark the first field that cannot be."""
        names = [each.name for each in self._form.fields]
        wrong = next((name for name in names if name in self._wrong), "")
        if wrong:
            self._form = self._form.mark(names.index(wrong))
        self.app.notify(f"It cannot be: {next(iter(self._wrong.values()))}", severity="error", timeout=10)
        self.redraw()

    def _confirmed(self, yes: bool | None) -> None:
        deployment, wanted = self._deployment(), self._check()
        if not yes or deployment is None or wanted is None or self._phase == "running" or self.session.obstacle(STEER):
            return
        self._load = self._starter(deployment.name, wanted, self.session.run_dir, self._ended)
        self.redraw()

    def _ended(self) -> None:
        """In the load's thread."""
        self.post_message(Over())

    @on(Over)
    def _over(self) -> None:
        if self._load is not None and not self.is_current:
            state = self._load.state
            words = f"failed: {state.error}" if state.error else "is over"
            self.app.notify(f"The load on {state.name} {words}.", severity="error" if state.error else "information", timeout=10)
        self._parts["body"].scroll_to(y=0, animate=False)
        self.redraw()

    async def action_stop_load(self) -> None:
        """The load; where none runs, what K is everywhere."""
        if self._load is not None and self._phase == "running":
            self._load.stop()
            self.redraw()
        else:
            await self.app.run_action("app.stop")

    def action_new(self) -> None:
        """Back to the form."""
        if self._phase == "over":
            self._load = None
            self.redraw()

    def action_next_window(self) -> None:
        names = list(WINDOWS)
        self._window = names[(names.index(self._window) + 1) % len(names)]
        self.redraw()


def _found_in(replay: ReplaySource) -> LoadState | None:
    from runtime.stress.result import attached

    try:
        found = attached(replay.attached)
    except ValueError as error:
        return LoadState("", "failed", error=f"what is attached to {replay.path.name} cannot be read: {error}")
    if found is None:
        return None
    return LoadState(found.name, "over", found.load, slo=found.goodput.slo if found.goodput else {}, found=found)


def traces(text: str) -> list[str]:
    """Files and directories that begin with `text`; a directory ends with `/`."""
    place, begin = os.path.split(os.path.expanduser(text))
    try:
        entries = sorted(Path(place or ".").iterdir())
    except OSError:
        return []
    shown = [each for each in entries if each.name.startswith(begin) and (begin.startswith(".") or not each.name.startswith("."))]
    return [os.path.join(place, each.name) + "/" * each.is_dir() for each in shown][:_MOST]


def _written(path: str) -> int | None:
    """Bytes of a recording, finished or not; `None` before its first."""
    for name in (f"{path}.part", path):
        try:
            return Path(name).stat().st_size
        except OSError:
            continue
    return None
