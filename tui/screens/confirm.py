"""Before something is done: what exactly, and a key that says yes."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen

from tui.view.line import Line
from tui.widgets.lines import Lines

_REDRAW_S = 0.5


class ConfirmScreen(ModalScreen[bool]):
    """`words`: the lines for so many columns, asked for again and again: what is confirmed is what stands there."""

    BINDINGS: ClassVar = [
        ("y", "answer(True)"),
        ("escape,n", "answer(False)"),
        ("down,j", "scroll(1)"),
        ("up,k", "scroll(-1)"),
        ("pagedown", "scroll(10)"),
        ("pageup", "scroll(-10)"),
    ]
    CSS = """
    ConfirmScreen { align: center middle; }
    ConfirmScreen Vertical { width: 76; max-width: 100%; height: auto; max-height: 100%; border: round $warning; padding: 0 1; }
    ConfirmScreen Lines { height: auto; max-height: 100%; background: $background; }
    """

    def __init__(self, words: Callable[[int], list[Line]]) -> None:
        super().__init__()
        self._words = words
        self._lines = Lines(id="question")

    def compose(self) -> ComposeResult:
        with Vertical():
            yield self._lines

    def on_mount(self) -> None:
        self.call_after_refresh(self._draw)
        self.set_interval(_REDRAW_S, self._draw)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        lines = self._words(max(1, self._lines.size.width - 1))
        self._lines.styles.height = max(1, min(len(lines), self.size.height - 2))
        self._lines.show(lines)

    def action_scroll(self, lines: int) -> None:
        self._lines.scroll_relative(y=lines, animate=False)

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)
