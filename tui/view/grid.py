"""Ranks by their place: a section a stage, a column a rank. Where the time goes is seen by looking across."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from telemetry.diagnosis.figures import grouped
from telemetry.snapshot import DeploymentView, RankView
from tui.view import cells
from tui.view.bars import history
from tui.view.columns import MARK
from tui.view.figures import milliseconds, percent, short
from tui.view.heading import state
from tui.view.line import Line, Span, clean, fit, joined, line, rule
from tui.view.options import Options, chosen_rank
from tui.view.ranks import column_name, opens, stage_name

LABEL = 16  # columns of the row names
NARROWEST, WIDEST = 20, 68  # columns of a rank, with the space before the next
_FIXED_ROWS = 7  # of a stage: all but the history


def columns_fit(deployment: DeploymentView, columns: int) -> bool:
    """Whether every rank of a stage stands in one row."""
    widest = max((len(stage) for stage in grouped(deployment.ranks, "dp", "pp")), default=1)
    return columns >= LABEL + 1 + widest * NARROWEST


def grid_rows(deployment: DeploymentView, columns: int, graph_rows: int) -> int:
    bands = sum(len(_bands(stage, columns)) for stage in grouped(deployment.ranks, "dp", "pp"))
    return bands * (_FIXED_ROWS + graph_rows)


def grid(
    deployment: DeploymentView, second: int, options: Options, columns: int, graph_rows: int = 1
) -> tuple[list[Line], tuple[int, int]]:
    """The lines, and which of them hold the marked rank."""
    lines: list[Line] = []
    marked, focus = chosen_rank(deployment, options), (0, 1)
    for stage in grouped(deployment.ranks, "dp", "pp"):
        for band in _bands(stage, columns):
            first = len(lines)
            lines.append(_title(deployment, stage, columns))
            marks = [MARK if rank is marked else " " for rank in band]
            lines.extend(_band(deployment, band, marks, second, options.units, columns, graph_rows))
            if MARK in marks:
                focus = first, len(lines)
    return lines, focus


def _bands(stage: list[RankView], columns: int) -> list[list[RankView]]:
    """A stage with more ranks than columns fit continues below, in bands of about the same length."""
    most = max(1, (columns - LABEL - 1) // NARROWEST)
    count = -(-len(stage) // most)
    each = -(-len(stage) // count)
    return [stage[i : i + each] for i in range(0, len(stage), each)]


def _title(deployment: DeploymentView, stage: list[RankView], columns: int) -> Line:
    info = stage[0].info
    layers = f"layers {info.first_layer}-{info.last_layer}"
    left = [Span(stage_name(deployment, stage), "title"), Span(f"  {layers}")]
    if deployment.emulated:
        left.append(Span("  emulated", "warn"))
    utils = [rank.util for rank in stage if rank.util is not None]
    return rule(tuple(left), line(f"mean util {percent(fmean(utils) if utils else None)}"), columns)


def _band(
    deployment: DeploymentView,
    band: Sequence[RankView],
    marks: Sequence[str],
    second: int,
    units: str,
    columns: int,
    graph_rows: int,
) -> list[Line]:
    each = max(1, min(WIDEST, (columns - LABEL - 1) // len(band)))
    inner = each - 2

    def row(name: str, contents: Sequence[Line], marks: Sequence[str] = ()) -> Line:
        """Each content stands one column in, after the place of its mark."""
        label = fit(line(f" {name}", "dim"), LABEL - 1)
        cells = zip(marks or " " * len(contents), contents, strict=True)
        return fit((*label, *joined(fit((Span(mark, "accent"), *content), each) for mark, content in cells)), columns)

    graphs = [history(rank.util_history, inner - 5, graph_rows, 100.0, second) for rank in band]
    rows = [row("rank", [_who(deployment, rank) for rank in band], marks)]
    for i in range(graph_rows):
        last = i == graph_rows - 1
        scale = Span("100%" if i == 0 else "    ", "dim")
        figures = [cells.utilization(rank) if last else scale for rank in band]
        drawn = [(figure, Span(" "), Span(graph[i], "graph")) for figure, graph in zip(figures, graphs, strict=True)]
        rows.append(row("util now, 60 s" if last else "", drawn))
    rows.append(row("step ms", [_step(rank, inner) for rank in band]))
    rows.append(row("all-reduce ms", [_allreduce(rank, inner) for rank in band]))
    rows.append(row("bubble", [cells.bubble(rank) for rank in band]))
    rows.append(row("memory", [_memory(rank, units, inner) for rank in band]))
    rows.append(row("tokens/s", [line(short(rank.tokens_per_s)) for rank in band]))
    return rows


def _who(deployment: DeploymentView, rank: RankView) -> Line:
    """`r5 e0 t1 cuda:5`, and the state when it is not the deployment's. A click on its name opens it."""
    name = Span(f"r{rank.info.rank} ", "title", opens(rank))
    where = Span(f"{column_name(deployment, rank)} {clean(rank.info.device)}".strip())
    if rank.state == deployment.state:
        return name, where
    return name, state(rank.state), Span(" "), where


def _step(rank: RankView, columns: int) -> Line:
    """The gauge stands under that of the memory where there is room."""
    figure = f"{milliseconds(rank.step_ms):<{11 if columns >= 26 else 5}} "
    return (Span(figure), *cells.step_gauge(rank, columns - len(figure)))


def _allreduce(rank: RankView, columns: int) -> Line:
    figure = cells.allreduce(rank)
    axis = rank.axes.get("tp")
    if axis is None:
        return figure
    wait = Span(f"  wait {milliseconds(axis.wait_ms)}", "dim")
    return (*figure, wait) if len(figure[0].text) + len(wait.text) <= columns else figure


def _memory(rank: RankView, units: str, columns: int) -> Line:
    """The gauge takes what the figures leave."""
    figures = f"{cells.memory_text(rank.memory, units):<11} "
    return (Span(figures), *cells.memory_gauge(rank.memory, columns - len(figures)))
