"""What a screen draws: five stacks of lines, of which the body scrolls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

from tui.view.line import Line, crop


class Rows(Sequence[Line]):
    """Lines that are drawn when they are looked at: of many rows a screen shows few."""

    def __init__(self, count: int, draw: Callable[[int], Line]) -> None:
        """`draw` gives the line at a place from 0 on, no wider than the screen."""
        self._count, self._draw = count, draw
        self._drawn: dict[int, Line] = {}

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Line: ...
    @overload
    def __getitem__(self, place: slice) -> list[Line]: ...

    def __getitem__(self, place: int | slice) -> Line | list[Line]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(self._count))]
        if not 0 <= place < self._count:
            raise IndexError(place)
        if place not in self._drawn:
            self._drawn[place] = self._draw(place)
        return self._drawn[place]


@dataclass(frozen=True)
class Frame:
    """Top to bottom. `body` scrolls when it is longer than the room that the others leave.

    `focus`: the rows of the body, from and to before, that must be in sight when they change: what is marked.
    """

    head: list[Line]
    body: Sequence[Line] = field(default_factory=list)
    panels: list[Line] = field(default_factory=list)
    foot: list[Line] = field(default_factory=list)
    focus: tuple[int, int] | None = None

    def cropped(self, columns: int, rows: int) -> Frame:
        """No line wider than the screen, and on a very small one the top is what stays."""
        head, panels, foot = ([crop(one, columns) for one in part] for part in (self.head, self.panels, self.foot))
        body = self.body if isinstance(self.body, Rows) else [crop(one, columns) for one in self.body]
        return Frame(head[:rows], body, panels, foot, self.focus)

    def without_panels(self) -> Frame:
        return replace(self, panels=[])
