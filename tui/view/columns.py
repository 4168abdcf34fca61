"""Tables of lines: columns that are left out by importance where there is no room, and grow where there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from tui.view.line import Line, Span, blank, fit, line

MARK = "▸"  # of the row that keys go to
_GAP = 2
_GAP_TEXT = " " * _GAP

T = TypeVar("T")


class Column(NamedTuple, Generic[T]):
    title: str
    sort: str  # the figure that the column shows
    width: int
    drop: int  # the highest goes first
    draw: Callable[[T, int], Line]
    align: str = ">"
    grows: int = 0  # up to this width, when there is room


def fitting(columns: Sequence[Column[T]], room: int) -> list[Column[T]]:
    """The columns that fit, those that can use it grown by what is left; the first, which says what a row is, stays."""
    kept = list(columns)
    while len(kept) > 1 and total(kept) > room:
        del kept[max(range(1, len(kept)), key=lambda i: (kept[i].drop, i))]
    for i, column in enumerate(kept):
        spare = room - total(kept)
        if column.grows and spare > 0:
            share = spare if not any(later.grows for later in kept[i + 1 :]) else spare * 2 // 3
            kept[i] = column._replace(width=min(column.grows, column.width + share))
    return kept


def titles(columns: Sequence[Column[T]], sort: str) -> Line:
    """The line above the rows; the figure by which they are sorted stands out."""
    spans: list[Span] = [Span(" ")]
    for column in columns:
        role = "accent" if column.sort and column.sort == sort else "dim"
        spans += (*fit(line(column.title, role), column.width, column.align), blank(_GAP))
    return tuple(spans)


def row(columns: Sequence[Column[T]], item: T, marked: bool = False) -> Line:
    """Cells that look alike become one span: every span costs time to make and bytes to send."""
    spans: list[Span] = []
    words, role = MARK if marked else " ", "accent"
    for _, _, width, _, draw, align, _ in columns:
        content = draw(item, width)
        if len(content) != 1 or content[0].action:
            spans += (Span(words, role), *fit(content, width, align))
            words, role = _GAP_TEXT, ""
            continue
        text, of, _ = content[0]
        cell = (text[:width].rjust(width) if align == ">" else text[:width].ljust(width)) + _GAP_TEXT
        if of != role:
            spans.append(Span(words, role))
            words, role = cell, of
        else:
            words += cell
    return (*spans, Span(words, role))


def total(columns: Sequence[Column[T]]) -> int:
    """Cells of a row of them."""
    return 1 + sum(column.width + _GAP for column in columns)
