"""Layer by expert, a character a cell: the glyph carries the level, colour only helps."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from tui.view.line import Line, Span

NONE = "_"  # took no token
_BELOW = (0.5, 1.25, 1.75, 2.5)  # times the mean: the first glyph is below the first, the last from the last on
_GLYPHS = ".:oO@"
ROLES = {" ": "", NONE: "dim", ".": "dim", ":": "", "o": "accent", "O": "wait", "@": "bad"}
_RUNS = re.compile(r"(.)\1*")
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


def glyph(ratio: float) -> str:
    """Of a load over the mean of its layer."""
    return _GLYPHS[bisect_right(_BELOW, ratio)] if ratio > 0 else NONE


def cells(shape: Board, row: Sequence[int], offset: int, room: int) -> Line:
    """One layer, `room` columns of it from `offset` on; blank where it took no token."""
    total = sum(row)
    if not total or room < 1:
        return (Span(" " * max(0, room)),)
    first, last = bisect_left(shape.left, offset), bisect_left(shape.left, offset + room)
    cuts = [below * total / len(row) for below in _BELOW]
    signs = [" "] * room
    for i in range(first, last):
        tokens = row[shape.order[i]]
        signs[shape.left[i] - offset] = _GLYPHS[bisect_right(cuts, tokens)] if tokens > 0 else NONE
    return tuple(Span(run[0], ROLES[run[1]]) for run in _RUNS.finditer("".join(signs)))


def owner_line(shape: Board, names: Sequence[str], offset: int, room: int) -> Line:
    """Above the cells: whose experts they are, said where the first of them in sight stands."""
    text = [" "] * (shape.width + 1)
    for owner, group in groupby(zip(shape.order, shape.left, strict=True), key=lambda pair: shape.owners[pair[0]]):
        places = [left for _, left in group]
        start = min(max(places[0], offset), places[-1])
        label = names[owner][: places[-1] - start + 1] if owner < len(names) else ""
        text[start : start + len(label)] = label
    return (Span("".join(text)[offset : offset + max(0, room)], "title"),)


def tick_line(shape: Board, marked: int, offset: int, room: int) -> Line:
    """Numbers of experts, none of them cut, and a sign above the marked one."""
    text = [" "] * (shape.width + 8)
    free = offset
    at = shape.left[shape.order.index(marked)]
    for expert, left in zip(shape.order, shape.left, strict=True):
        label = str(expert)
        end = left + len(label)
        if expert % 8 == 0 and free <= left and end <= offset + room and not left <= at < end:
            text[left:end] = label
            free = end + 1
    before, after = "".join(text[offset:at]), "".join(text[at + 1 : offset + max(0, room)])
    return Span(before, "dim"), Span("▾", "accent"), Span(after, "dim")
