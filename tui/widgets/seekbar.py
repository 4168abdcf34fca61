"""The lines under a replay, on which a click or a drag goes to that moment."""

from __future__ import annotations

from textual import events
from textual.message import Message

from tui.view.transport import Place, moment_at, transport
from tui.widgets.lines import Lines


class SeekBar(Lines):
    """Has no height until there is a replay."""

    DEFAULT_CSS = "SeekBar { height: 0; }"
    ALLOW_SELECT = False  # to drag is to seek

    class Sought(Message):
        """The user went to a moment: seconds from the recording's beginning."""

        def __init__(self, moment: float) -> None:
            super().__init__()
            self.moment = moment

    def __init__(self) -> None:
        super().__init__(id="transport")
        self._place: Place | None = None
        self._columns = 0

    def place(self, place: Place | None, columns: int, rows: int) -> int:
        """Show where a replay is on a screen of this size; how many rows that takes."""
        self._place, self._columns = place, columns
        lines = transport(place, columns, rows) if place is not None else []
        self.styles.height = len(lines)
        self.show(lines)
        return len(lines)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        if event.y == 1:
            self.capture_mouse()
            self._seek(event.x)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self.app.mouse_captured is self:
            self._seek(event.x)

    def on_mouse_up(self, event: events.MouseUp) -> None:
        self.release_mouse()

    def _seek(self, column: int) -> None:
        if self._place is not None:
            self.post_message(self.Sought(moment_at(self._place, column, self._columns)))
