"""Ranks one a line: for many ranks, small screens, sorting and filtering. What does not fit is left out by importance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from telemetry.snapshot import DeploymentView, RankView
from tui.view import cells
from tui.view.bars import history
from tui.view.columns import Column, fitting, row, titles, total
from tui.view.figures import UNAVAILABLE, milliseconds, percent, short
from tui.view.frame import Rows
from tui.view.heading import state
from tui.view.line import Line, Span, blank, clean, crop, fit, joined, line, rule
from tui.view.options import Options, chosen_rank
from tui.view.ranks import arranged, opens, place

_SIDE_BY_SIDE = 79  # the width that two tables beside each other must have each


class Table(NamedTuple):
    """`focus`: the rows of the body, from and to before, that hold the marked rank."""

    head: list[Line]
    body: Sequence[Line]
    focus: tuple[int, int]


def table(deployment: DeploymentView, second: int, options: Options, columns: int, rows: int) -> Table:
    """The body is as long as there are ranks, or shorter where two tables fit beside each other."""
    ranks = arranged(deployment.ranks, options.filter, options.sort)
    count = max(1, min(columns // _SIDE_BY_SIDE, -(-len(ranks) // max(1, rows))))
    each = columns // count
    chosen = fitting(_columns(deployment, second, options), each)
    high = -(-len(ranks) // count)
    stripes = [ranks[i * high : (i + 1) * high] for i in range(count)]
    head = joined(fit(titles(chosen, options.sort), each) for _ in range(count))
    marked = chosen_rank(deployment, options)

    beside = (blank(each - total(chosen)),) if total(chosen) < each else ()

    def drawn(y: int) -> Line:
        spans = joined((*row(chosen, stripe[y], stripe[y] is marked), *beside) for stripe in stripes if y < len(stripe))
        return spans if total(chosen) <= each else crop(spans, columns)

    body = Rows(high, drawn)
    at = ranks.index(marked) % high if marked in ranks else 0
    return Table([_heading(deployment, ranks, options, columns), crop(head, columns)], body, (at, at + 1))


def _heading(deployment: DeploymentView, shown: Sequence[RankView], options: Options, columns: int) -> Line:
    left = [Span("ranks", "title")]
    if deployment.emulated:
        left.append(Span("  emulated", "warn"))
    if options.filter:
        left.append(Span(f"  / {clean(options.filter)}", "accent"))
    right = (
        f"{len(shown)} of {len(deployment.ranks)}, by {options.sort}" if options.filter else f"{len(shown)}, by {options.sort}"
    )
    return rule(tuple(left), line(right, "dim"), columns)


def _columns(deployment: DeploymentView, second: int, options: Options) -> list[Column[RankView]]:
    where = {rank.info.rank: place(deployment, rank) for rank in deployment.ranks}
    longest = max((len(text) for text in where.values()), default=0)
    states = max((len(rank.state) + 2 for rank in deployment.ranks), default=0)
    uniform = all(rank.state == deployment.state for rank in deployment.ranks)
    devices = max((len(rank.info.device) for rank in deployment.ranks), default=0)
    shown: list[Column[RankView]] = [
        Column("rank", "rank", 4, 0, lambda r, w: line(f"r{r.info.rank}", "title", opens(r)), "<"),
        Column("place" if longest >= 5 else "at", "", longest, 1, lambda r, w: line(where[r.info.rank]), "<"),
        Column("state", "", states, 20 if uniform else 1, lambda r, w: (state(r.state),), "<"),
        Column("device", "", max(6, devices), 9, lambda r, w: line(clean(r.info.device)), "<"),
        Column("util", "util", 4, 0, lambda r, w: line(percent(r.util), "bold")),
        Column("60 s", "", 8, 3, lambda r, w: line(history(r.util_history, w, 1, 100.0, second)[0], "graph"), "<", 60),
        Column("bubble", "bubble", 6, 0, lambda r, w: cells.bubble(r)),
        Column("reduce ms", "all-reduce", 9, 1, lambda r, w: cells.allreduce(r)),
        Column("step ms", "step", 7, 5, lambda r, w: line(milliseconds(r.step_ms))),
        Column("tok/s", "tok/s", 6, 2, lambda r, w: line(short(r.tokens_per_s))),
        Column("memory", "memory", 11, 1, lambda r, w: line(cells.memory_text(r.memory, options.units))),
        Column("", "", 8, 6, lambda r, w: cells.memory_gauge(r.memory, w), "<", 24),
        Column("watt", "", 4, 11, lambda r, w: line(short(r.power_w))),
        Column("deg C", "", 5, 12, lambda r, w: line(UNAVAILABLE if r.temperature_c is None else f"{r.temperature_c:.0f}")),
    ]
    return [column for column in shown if column.width]
