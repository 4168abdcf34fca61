"""What every screen can do with a replay: its keys, its seek bar, and the field for a time to go to."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, Static

from tui.session import Session
from tui.view.transport import Place, clock
from tui.widgets.seekbar import SeekBar


class Replaying(Screen[None]):
    """The part of a screen that steers a replay. Its actions are off while none is shown."""

    session: Session

    def place_of_replay(self) -> Place | None:
        replay = self.session.replay
        if replay is None:
            return None
        events = [(tick.moment, tick.event) for tick in replay.ticks]
        return Place(replay.path.name, replay.moment, replay.seconds, replay.speed, replay.playing, events, replay.marks)

    def redraw(self) -> None:
        raise NotImplementedError

    def action_replay_toggle(self) -> None:
        if replay := self.session.replay:
            replay.toggle()
            self.redraw()

    def action_replay_step(self, frames: int) -> None:
        if replay := self.session.replay:
            replay.step(frames)
            self.redraw()

    def action_replay_skip(self, seconds: int) -> None:
        if replay := self.session.replay:
            replay.skip(seconds)
            self.redraw()

    def action_replay_faster(self, steps: int) -> None:
        if replay := self.session.replay:
            replay.faster(steps)
            self.redraw()

    def action_replay_jump(self, step: int) -> None:
        if replay := self.session.replay:
            replay.jump(step)
            self.redraw()

    def action_replay_edge(self, end: bool) -> None:
        if replay := self.session.replay:
            replay.seek(replay.seconds if end else 0.0)
            self.redraw()

    def action_replay_mark(self) -> None:
        if replay := self.session.replay:
            replay.mark()
            self.redraw()

    def action_replay_go_to(self) -> None:
        if replay := self.session.replay:
            self.app.push_screen(GoToScreen(replay.moment, replay.seconds), self._go_to)

    def action_replay_leave(self) -> None:
        """Back to what was shown before the replay."""
        if self.session.can_leave:
            self.session.leave()
            self.redraw()
        else:
            self.notify("There is nothing behind this replay: it was opened by itself.", severity="warning")

    @on(SeekBar.Sought)
    def _sought(self, event: SeekBar.Sought) -> None:
        self._go_to(event.moment)

    def _go_to(self, moment: float | None) -> None:
        if moment is not None and (replay := self.session.replay):
            replay.seek(moment)
            self.redraw()


class GoToScreen(ModalScreen[float | None]):
    """Gives the moment that is typed, `None` when the user leaves."""

    BINDINGS: ClassVar = [("escape", "dismiss(None)")]
    CSS = """
    GoToScreen { align: center bottom; }
    GoToScreen Vertical { width: 60; max-width: 100%; height: auto; border: round $primary; padding: 0 1; background: $surface; }
    GoToScreen Static { height: auto; }
    GoToScreen Input { border: none; height: 1; padding: 0; background: $panel; }
    """

    def __init__(self, moment: float, seconds: float) -> None:
        super().__init__()
        self._moment, self._seconds = moment, seconds

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(f"Go to a time of this recording, which is {clock(self._seconds, tenths=False)} long.", markup=False)
            yield Input(placeholder=f"MM:SS, now at {clock(self._moment, tenths=False)}; esc stays here")
            yield Static("", id="wrong", markup=False)

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        from profiles.replay import parse_moment  # not for a live dashboard, which starts without it

        try:
            moment = parse_moment(event.value.strip())
            if moment > self._seconds:
                raise ValueError(f"the recording ends at {clock(self._seconds, tenths=False)}")
        except ValueError as error:
            self.query_one("#wrong", Static).update(f"× {error}")
        else:
            self.dismiss(moment)
