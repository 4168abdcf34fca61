"""Layer by expert, a character a cell: the glyph carries the level, colour only helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from tui.view.line import Line, Span

NONE = "_"  # took no token
LEVELS = ((0.5, ".", "dim"), (1.25, ":", ""), (1.75, "o", "accent"), (2.5, "O", "wait"))  # below this times the mean
HOT = ("@", "bad")
LEGEND = "of the layer's mean: _ none  . <0.5  : <1.25  o <1.75  O <2.5  @ more"
_GAP = 2  # columns between owners


@dataclass(frozen=True)
class Board:
    """Where each expert's column is. `order`: experts as they stand, by owner; `left[i]`: column of `order[i]`."""

    order: tuple[int, ...]
    owners: tuple[int, ...]  # by expert
    left: tuple[int, ...]
    width: int

    def offset(self, expert: int, room: int) -> int:
        """By how many columns to scroll so that the expert is in sight: half a screen at a time."""
        if self.width <= room or room < 1:
            return 0
        half = max(1, room // 2)
        place = self.left[self.order.index(expert)]
        return min(self.width - room, max(0, -(-(place + 1 - room) // half)) * half)


def board(owners: Sequence[int], room: int) -> Board:
    """Two columns an expert where they fit, else one."""
    order = sorted(range(len(owners)), key=lambda expert: (owners[expert], expert))
    for each in (2, 1):
        left, at = [], 0
        for i, expert in enumerate(order):
            if i and owners[expert] != owners[order[i - 1]]:
                at += _GAP
            left.append(at)
            at += each
        if at <= room:
            break
    return Board(tuple(order), tuple(owners), tuple(left), at)


def glyph(ratio: float) -> tuple[str, str]:
    """Of a load over the mean of its layer, and the role."""
    if ratio <= 0:
        return NONE, "dim"
    return next(((sign, role) for below, sign, role in LEVELS if ratio < below), HOT)


def cells(shape: Board, row: Sequence[int], offset: int, room: int) -> Line:
    """One layer, `room` columns of it from `offset` on; blank where it took no token."""
    mean = sum(row) / max(1, len(row))
    signs = [(" ", "")] * max(room, 0)
    if mean > 0:
        for expert, left in zip(shape.order, shape.left, strict=True):
            if 0 <= left - offset < room:
                signs[left - offset] = glyph(row[expert] / mean)
    return _spans(signs)


def owner_line(shape: Board, names: Sequence[str], offset: int, room: int) -> Line:
    """Above the cells: whose experts they are."""
    text = [" "] * (shape.width + 1)
    for owner, group in groupby(zip(shape.order, shape.left, strict=True), key=lambda pair: shape.owners[pair[0]]):
        places = [left for _, left in group]
        label = names[owner][: max(1, places[-1] - places[0] + 1)] if owner < len(names) else ""
        text[places[0] : places[0] + len(label)] = label
    return (Span("".join(text)[offset : offset + max(0, room)], "title"),)


def tick_line(shape: Board, marked: int, offset: int, room: int) -> Line:
    """Numbers of experts, and a sign above the marked one."""
    text = [" "] * (shape.width + 8)
    free = 0
    for expert, left in zip(shape.order, shape.left, strict=True):
        label = str(expert)
        if expert % 8 == 0 and left >= free:
            text[left : left + len(label)] = label
            free = left + len(label) + 1
    signs = [(character, "dim") for character in text]
    signs[shape.left[shape.order.index(marked)]] = ("▾", "accent")
    return _spans(signs[offset : offset + max(0, room)])


def _spans(signs: Sequence[tuple[str, str]]) -> Line:
    return tuple(
        Span("".join(character for character, _ in same), role) for role, same in groupby(signs, key=lambda sign: sign[1])
    )
