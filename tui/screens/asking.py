"""A question with one field for the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

T = TypeVar("T")


class AskScreen(ModalScreen[T | None], Generic[T]):
    """Gives what `understood` makes of the answer, `None` when the user leaves; what it raises as a ValueError is shown."""

    BINDINGS: ClassVar = [("escape", "dismiss(None)")]
    CSS = """
    AskScreen { align: center bottom; }
    AskScreen Vertical { width: 76; max-width: 100%; height: auto; border: round $primary; padding: 0 1; background: $surface; }
    AskScreen Static { height: auto; }
    AskScreen Input { border: none; height: 1; padding: 0; background: $panel; }
    """

    def __init__(self, question: str, hint: str, understood: Callable[[str], T], answer: str = "") -> None:
        super().__init__()
        self._question, self._hint, self._understood, self._answer = question, hint, understood, answer

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self._question, markup=False)
            yield Input(self._answer, placeholder=self._hint, select_on_focus=False)
            yield Static("", id="wrong", markup=False)

    @on(Input.Submitted)
    def _answered(self, event: Input.Submitted) -> None:
        try:
            answer = self._understood(event.value.strip())
        except ValueError as error:
            self.query_one("#wrong", Static).update(f"× {error}")
        else:
            self.dismiss(answer)
