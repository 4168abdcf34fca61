"""What every screen can do with a replay: its keys, its seek bar, and the question for a time to go to."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial

from textual import on
from textual.screen import Screen

from tui.screens.asking import AskScreen
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

    @abstractmethod
    def redraw(self) -> None:
        """Show what the replay is at now."""

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
            length, now = clock(replay.seconds, tenths=False), clock(replay.moment, tenths=False)
            question = f"Go to a time of this recording, which is {length} long."
            ask = AskScreen(question, f"MM:SS, now at {now}; esc stays here", partial(_moment, replay.seconds))
            self.app.push_screen(ask, self._go_to)

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


def _moment(seconds: float, text: str) -> float:
    """Raises ValueError for what is none, or beyond the end."""
    from profiles.replay import parse_moment  # not for a live dashboard, which starts without it

    moment = parse_moment(text)
    if moment > seconds:
        raise ValueError(f"the recording ends at {clock(seconds, tenths=False)}")
    return moment
