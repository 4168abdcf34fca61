"""Pictures made of characters: histories on a fixed scale, gauges of several parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from tui.view.line import Line, Span, width

_EIGHTHS = " ▁▂▃▄▅▆▇█"


class Share(NamedTuple):
    """A part of a gauge. The glyph tells the parts apart where there is no colour."""

    value: float
    glyph: str
    role: str


def history(values: Sequence[float], columns: int, rows: int, top: float, second: int) -> list[str]:
    """Columns of a bar chart from 0 to `top`, newest at the right, top row first.

    `values` are one a second, the last of second number `second`. When they do not all fit, a column is the mean of k of
    them; groups start at multiples of k seconds, because groups counted from the newest would make the picture shiver;
    an oldest group that is left over is left out.
    A zero still shows its foot: nothing at all means no data.
    """
    return list(_drawn(tuple(values), columns, rows, top, second))


def level(value: float, top: float) -> str:
    """A bar of one cell. A zero still shows its foot."""
    return _EIGHTHS[max(1, min(8, round(8 * value / top)))] if top > 0 else _EIGHTHS[1]


@lru_cache(1024)  # a rank's values come once a second, frames oftener
def _drawn(values: tuple[float, ...], columns: int, rows: int, top: float, second: int) -> tuple[str, ...]:
    if columns <= 0 or rows <= 0:
        return ("",) * max(0, rows)
    group = max(1, -(-len(values) // columns))
    means = values if group == 1 else _grouped(values, group, second - len(values) + 1)[-columns:]
    levels = [max(1, min(8 * rows, round(8 * rows * value / top))) if top > 0 else 1 for value in means]
    blank = " " * (columns - len(levels))
    feet = [8 * row for row in reversed(range(rows))]
    return tuple(blank + "".join([_EIGHTHS[max(0, min(8, level - foot))] for level in levels]) for foot in feet)


def _grouped(values: Sequence[float], group: int, first: int) -> list[float]:
    cuts = [0, *range(-first % group or group, len(values), group), len(values)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts) if b > a]


def bar(shares: Sequence[Share], total: float, columns: int) -> Line:
    """`███▓▓▒`, of as many cells as `shares` have of `total`, at most `columns`. Ends are rounded, not parts: rounding never
    adds up."""
    spans = []
    done, reached = 0, 0.0
    for share in shares:
        reached += max(0.0, share.value)
        end = min(columns, round(columns * reached / total)) if total > 0 else 0
        if end > done:
            spans.append(Span(share.glyph * (end - done), share.role))
            done = end
    return tuple(spans)


def gauge(shares: Sequence[Share], total: float, columns: int) -> Line:
    """`[███▓▓▒···]`, of `columns` cells, brackets included."""
    inner = columns - 2
    if inner < 1:
        return ()
    drawn = bar(shares, total, inner)
    left = inner - width(drawn)
    return (Span("[", "dim"), *drawn, *((Span("·" * left, "dim"),) if left else ()), Span("]", "dim"))
