"""A field to type a filter into, at the foot of the screens that can be filtered."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.widgets import Input

from tui import keys
from tui.keys import Key
from tui.screens.view import View
from tui.session import Session


class FilteredView(View):
    """`set_filter` is told of every character that is typed. While it is, every other key is text."""

    FILTER_HELP: ClassVar[str] = ""
    CSS = """
    #filter { display: none; height: 1; border: none; padding: 0 1; background: $panel; }
    #filter.-open { display: block; }
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._input = Input(placeholder=self.FILTER_HELP, id="filter", select_on_focus=False)

    @abstractmethod
    def set_filter(self, text: str) -> None:
        """What is shown from now on; empty shows all."""

    @property
    def typing(self) -> bool:
        """Then the field takes one of the screen's rows."""
        return self._input.has_class("-open")

    def middle(self) -> ComposeResult:
        yield from super().middle()
        yield self._input

    def usable_keys(self) -> Sequence[Key]:
        return keys.FILTERING if self.typing else super().usable_keys()

    def action_filter(self) -> None:
        self._input.add_class("-open")
        self._input.focus()
        self.redraw()

    def action_clear_filter(self) -> None:
        self._input.value = ""
        self.action_keep_filter()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        self.set_filter(event.value.strip())
        self.redraw()

    @on(Input.Submitted, "#filter")
    def action_keep_filter(self) -> None:
        self._input.remove_class("-open")
        self.set_focus(None)
        self.redraw()
