"""What a screen draws: five stacks of lines, of which the body scrolls."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tui.view.line import Line, crop


@dataclass(frozen=True)
class Frame:
    """Top to bottom. `body` scrolls when it is longer than the room that the others leave.

    `focus`: the rows of the body, from and to before, that must be in sight when they change: what is marked.
    """

    head: list[Line]
    body: list[Line] = field(default_factory=list)
    panels: list[Line] = field(default_factory=list)
    foot: list[Line] = field(default_factory=list)
    focus: tuple[int, int] | None = None

    def cropped(self, columns: int, rows: int) -> Frame:
        """No line wider than the screen, and on a very small one the top is what stays."""
        parts = (self.head, self.body, self.panels, self.foot)
        head, body, panels, foot = ([crop(one, columns) for one in part] for part in parts)
        return Frame(head[:rows], body, panels, foot, self.focus)

    def without_panels(self) -> Frame:
        return replace(self, panels=[])
