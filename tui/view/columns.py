"""Tables of lines: columns that are left out by importance where there is no room, and grow where there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from tui.view.line import Line, Span, fit, line

MARK = "▸"  # of the row that keys go to
_GAP = 2

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
    """The columns that fit, those that can use it grown by what is left."""
    kept = list(columns)
    while len(kept) > 1 and _total(kept) > room:
        kept.remove(max(kept, key=lambda column: column.drop))
    for i, column in enumerate(kept):
        spare = room - _total(kept)
        if column.grows and spare > 0:
            share = spare if not any(later.grows for later in kept[i + 1 :]) else spare * 2 // 3
            kept[i] = column._replace(width=min(column.grows, column.width + share))
    return kept


def titles(columns: Sequence[Column[T]], sort: str) -> Line:
    """The line above the rows; the figure by which they are sorted stands out."""
    spans: list[Span] = [Span(" ")]
    for column in columns:
        role = "accent" if column.sort and column.sort == sort else "dim"
        spans.extend(fit(line(column.title, role), column.width, column.align))
        spans.append(Span(" " * _GAP))
    return tuple(spans)


def row(columns: Sequence[Column[T]], item: T, marked: bool = False) -> Line:
    spans: list[Span] = [Span(MARK if marked else " ", "accent")]
    for column in columns:
        spans.extend(fit(column.draw(item, column.width), column.width, column.align))
        spans.append(Span(" " * _GAP))
    return tuple(spans)


def _total(columns: Sequence[Column[T]]) -> int:
    return 1 + sum(column.width + _GAP for column in columns)
