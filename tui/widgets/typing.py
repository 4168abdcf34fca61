"""The line to type into, at the foot of a screen that has fields."""

from __future__ import annotations

from typing import ClassVar

from textual.widgets import Input


class Typing(Input):
    """What it is asked beyond text is the screen's: to complete, to choose among completions, to leave."""

    BINDINGS: ClassVar = [
        ("tab", "screen.complete_path"),
        ("down", "screen.choose_path(1)"),
        ("up", "screen.choose_path(-1)"),
        ("escape", "screen.leave_field"),
    ]
