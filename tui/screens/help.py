"""The help page: keys of the screen below it, and what its figures mean."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.binding import Binding
from textual.screen import ModalScreen

from tui.keys import Key
from tui.view.manual import COMMON, Glossary, help_lines
from tui.widgets.lines import Lines


class HelpScreen(ModalScreen[None]):
    BINDINGS = [  # noqa: RUF012
        Binding("escape", "app.pop_screen", "close", show=False),
        Binding("question_mark", "app.pop_screen", "close", show=False, id="app.help"),  # or what the user has for it
        Binding("q", "app.pop_screen", "close", show=False, id="app.quit"),
        Binding("down,j", "scroll(1)", "down", show=False),
        Binding("up,k", "scroll(-1)", "up", show=False),
        Binding("pagedown,space", "scroll(10)", "page down", show=False),
        Binding("pageup", "scroll(-10)", "page up", show=False),
    ]
    CSS = """
    HelpScreen { align: center middle; background: $background; }
    HelpScreen Lines { width: 96%; max-width: 100; height: 1fr; }
    """

    def __init__(self, sections: Sequence[tuple[str, Sequence[Key]]], glossary: Glossary) -> None:
        super().__init__()
        self._sections = sections
        self._glossary = (*glossary, *COMMON)
        self._lines = Lines(id="help")

    def compose(self) -> ComposeResult:
        yield self._lines

    def on_mount(self) -> None:
        self.call_after_refresh(self._draw)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        self._lines.show(help_lines(self._sections, self._glossary, max(1, self._lines.size.width - 1)))

    def action_scroll(self, lines: int) -> None:
        self._lines.scroll_relative(y=lines, animate=False)
