"""Before a deployment is stopped: type its name."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static


class StopScreen(ModalScreen[str | None]):
    """Gives the name once it is typed whole, `None` when the user leaves."""

    BINDINGS: ClassVar = [("escape", "dismiss(None)")]
    CSS = """
    StopScreen { align: center middle; }
    StopScreen Vertical { width: 64; max-width: 96%; height: auto; border: round $error; padding: 0 1; background: $surface; }
    StopScreen Static { height: auto; }
    StopScreen Input { border: none; height: 1; padding: 0; background: $panel; }
    """

    def __init__(self, name: str, running: int) -> None:
        super().__init__()
        self._deployment = name
        self._requests = running

    def compose(self) -> ComposeResult:
        requests = f"{self._requests:,} running requests end first, then its" if self._requests else "Its"
        with Vertical():
            yield Static(f"Stop {self._deployment}. {requests} ranks end and their memory is free.", markup=False)
            yield Input(placeholder=f"type {self._deployment} and press enter; esc leaves it running")
            yield Static("", id="wrong", markup=False)

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        if event.value.strip() == self._deployment:
            self.dismiss(self._deployment)
        else:
            self.query_one("#wrong", Static).update(f"× that is not {self._deployment}: nothing was stopped")
