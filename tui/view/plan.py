"""The plan screen: the question at the top, a line a layout, below what stands behind the marked one and the choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from telemetry.snapshot import Snapshot
from tui.keys import Key
from tui.view.columns import Column, fitting, row, titles
from tui.view.figures import milliseconds, percent, short, whole
from tui.view.form import Form, flow_lines, help_line, problems_first
from tui.view.frame import Frame
from tui.view.line import BLANK, Line, Span, clean, crop, fit, line, rule
from tui.view.options import Feed, Options
from tui.view.plan_panels import PANELS, panel
from tui.view.screen import head_and_foot
from tui.view.verdict import Verdict

if TYPE_CHECKING:
    from runtime.planner.comparison import Comparison
    from runtime.planner.search import Entry, UseCase
    from runtime.planner.serving import Prediction
    from tui.planning import Planned

SORTS = ("merit", "ttft", "tpot", "tok/s", "/gpu", "/user")
_BESIDE = 110  # columns from which two panels stand beside each other
_TALL = 11  # rows of a panel
_LEAST_TABLE = 5


@dataclass(frozen=True)
class Table:
    """`planned`: None before the first answer. `at`: the marked row; `panel`: the first of those below; `newer`: something else
    is asked by now, and is planned."""

    form: Form
    planned: Planned | None = None
    comparison: Comparison | str | None = None  # of what runs; text: why there is none
    at: int = 0
    sort: str = "merit"
    panel: str = "split"
    newer: bool = False
    found: tuple[str, ...] = ()
    choice: int = -1


@dataclass(frozen=True)
class Row:
    """A layout with its best point for the use case; none: it cannot be, or does not fit."""

    entry: Entry
    point: Prediction | None
    on_front: bool
    taken: bool


def rows_of(planned: Planned | None, sort: str) -> list[Row]:
    """Those that run, best first; then those that do not."""
    plan = planned.plan if planned else None
    if plan is None:
        return []
    front = {(each.sharding, each.batch) for each in plan.front}
    found = []
    for entry in plan.entries:
        point = best(plan.use_case, entry)
        on_front = any((each.sharding, each.batch) in front for each in entry.points)
        found.append(Row(entry, point, on_front, plan.choice is not None and plan.choice.point.sharding == entry.sharding))
    order: dict[str, Callable[[Prediction], float]] = {
        "merit": lambda p: -(plan.use_case.merit(p) if plan.use_case.met(p) else -plan.use_case.distance(p)),
        "ttft": lambda p: p.ttft,
        "tpot": lambda p: p.tpot,
        "tok/s": lambda p: -p.tokens_s,
        "/gpu": lambda p: -p.tokens_s_gpu,
        "/user": lambda p: -p.tokens_s_user,
    }
    return sorted(found, key=lambda each: inf if each.point is None else order[sort](each.point))


def best(use_case: UseCase, entry: Entry) -> Prediction | None:
    """Of a layout's loads: within the use case's limits the most merit, else the nearest to them."""
    within = [point for point in entry.points if use_case.met(point)]
    if within:
        return max(within, key=use_case.merit)
    return min(entry.points, key=use_case.distance, default=None)


def plan_screen(
    table: Table, snapshot: Snapshot | None, feed: Feed, options: Options, keys: Sequence[Key], columns: int, rows: int
) -> Frame:
    """The whole screen."""
    columns = max(1, columns)
    head, foot = head_and_foot(snapshot, feed, options, keys, columns, rows, said(table))
    planned, found = table.planned, rows_of(table.planned, table.sort)
    wrong = planned.wrong if planned else {}
    head += flow_lines(table.form, wrong, columns)
    head = head[: max(1, rows - len(foot) - 1)]
    room = max(0, rows - len(head) - len(foot))
    if table.found:
        return Frame(head, _completions(table, columns, room), [], foot, (table.choice, table.choice + 1)).cropped(columns, rows)
    shown = fitting(_columns(), columns)
    if found and room > 3:
        head += [_title(table, found, columns), crop(titles(shown, table.sort), columns)]
        room -= 2
    at = min(table.at, max(0, len(found) - 1))
    marked = found[at] if found else None
    body = [_row(each, shown, i == at, i, columns) for i, each in enumerate(found)]
    panels = _panels(table, marked, columns, room, min(len(body), max(_LEAST_TABLE, room // 3)))
    if room >= 12:
        panels.append(crop(line(f" {clean(help_line(table.form, wrong))}", "dim"), columns))
    return Frame(head, body, panels, foot, (at, at + 1)).cropped(columns, rows)


def said(table: Table) -> Verdict:
    planned = table.planned
    if planned is None:
        return Verdict("info", "planning")
    if planned.wrong:
        return Verdict("bad", problems_first(table.form, planned.wrong)[0])
    plan = planned.plan
    if plan is None or plan.choice is None:
        reasons = [entry.verdict for entry in plan.entries if not entry.broken] if plan else []
        changes = sorted({verdict.change for verdict in reasons if verdict.change}, key=len)
        return Verdict("bad", "no layout fits", reasons[0].reason if reasons else "", changes[0] if changes else "")
    choice = plan.choice
    words = f"take {choice.point.sharding} at {whole(choice.point.batch)} requests"
    return Verdict("good" if choice.met else "warn", words, choice.reason)


def _title(table: Table, found: Sequence[Row], columns: int) -> Line:
    planned = table.planned
    assert planned is not None
    assert planned.plan is not None
    known, request = planned.plan.request.calibration, planned.plan.request
    state = f"calibrated on {known.machine}" if known.calibrated else "uncalibrated"
    runs = sum(each.point is not None for each in found)
    left = f"{len(found)} layout{'' if len(found) == 1 else 's'}, {runs} run, by {table.sort}"
    right = f"{'planning ... ' if table.newer else ''}{state} +-{known.band('tpot_ms'):.0%}"
    gpus = f"{request.cluster.gpus} x {request.cluster.gpu.name}"
    return rule((Span(left, "title"), Span(f"  {gpus}", "dim")), line(right, "dim"), columns)


def _columns() -> list[Column[Row]]:
    def figure(of: Callable[[Prediction], str]) -> Callable[[Row, int], Line]:
        return lambda each, _width: line(of(each.point)) if each.point is not None else BLANK

    return [
        Column("layout", "merit", 10, 0, _layout, "<", 18),
        Column("fit", "", 5, 0, _fits, "<"),
        Column("reqs", "", 6, 6, figure(lambda p: whole(p.batch))),
        Column("TTFT ms", "ttft", 7, 2, figure(lambda p: milliseconds(1e3 * p.ttft) if p.ttft < inf else "never")),
        Column("TPOT ms", "tpot", 7, 1, figure(lambda p: milliseconds(1e3 * p.tpot))),
        Column("tok/s", "tok/s", 7, 3, figure(lambda p: short(p.tokens_s))),
        Column("/GPU", "/gpu", 6, 1, figure(lambda p: short(p.tokens_s_gpu))),
        Column("/user", "/user", 6, 1, figure(lambda p: f"{p.tokens_s_user:.1f}")),
        Column("bubble", "", 6, 7, figure(lambda p: percent(100 * p.bubble))),
        Column("limit", "", 14, 5, figure(_limit), "<"),
        Column("KB/tok", "", 6, 9, figure(lambda p: short(sum(p.bytes_per_token.values()) / 1e3))),
        Column("GiB w", "", 6, 8, figure(lambda p: f"{p.memory.weights / (1 << 30):.1f}")),
        Column("GiB kv", "", 6, 8, figure(lambda p: f"{p.memory.kv / (1 << 30):.1f}")),
    ]


def _layout(each: Row, width: int) -> Line:
    glyph = Span("@ ", "good") if each.taken else Span("o ", "accent") if each.on_front else Span("  ")
    return glyph, Span(str(each.entry.sharding)[: max(0, width - 2)], "bold" if each.taken else "")


def _fits(each: Row, _width: int) -> Line:
    word = each.entry.verdict.word
    return line(word, {"fits": "good", "tight": "warn"}.get(word, "bad"))


def _limit(point: Prediction) -> str:
    name, share = point.limiting
    return f"{name} {percent(100 * share)}"


def _row(each: Row, shown: Sequence[Column[Row]], marked: bool, at: int, columns: int) -> Line:
    """One that cannot be says why instead of figures."""
    action = f"screen.mark_row({at})"
    if each.point is not None:
        spans = row(shown, each, marked)
    else:
        verdict = each.entry.verdict
        change = f"would fit: {verdict.change}; " if verdict.change else ""
        reason = "; ".join(each.entry.broken) or change + verdict.reason
        spans = (*row(shown[:2], each, marked), Span(clean(reason), "dim"))
    return tuple(span._replace(action=action) for span in crop(spans, columns))


def _panels(table: Table, marked: Row | None, columns: int, room: int, least: int) -> list[Line]:
    """As many as there is room for, from the one that was asked for on."""
    planned = table.planned
    if planned is None or planned.plan is None or room - least < 4:
        return []
    entry, point = (marked.entry, marked.point) if marked else (None, None)
    first = PANELS.index(table.panel)
    order = [PANELS[(first + i) % len(PANELS)] for i in range(len(PANELS))]
    beside = 2 if columns >= _BESIDE else 1
    bands = max(1, (room - least) // (_TALL + 1))
    tall = min(_TALL + 6, max(3, (room - least) // bands - 1))
    each = (columns - 3 * (beside - 1)) // beside
    lines: list[Line] = []
    for band in range(min(bands, -(-len(order) // beside))):
        drawn = [
            panel(name, planned, entry, point, table.comparison, each, tall)
            for name in order[band * beside : (band + 1) * beside]
        ]
        high = max(len(one) for one in drawn)
        padded = [one + [BLANK] * (high - len(one)) for one in drawn]
        gap = Span("   ")
        for pieces in zip(*padded, strict=True):
            spans: Line = ()
            for i, piece in enumerate(pieces):
                spans = (*spans, *(() if i == 0 else (gap,)), *fit(piece, each))
            lines.append(spans)
    return lines


def _completions(table: Table, columns: int, room: int) -> list[Line]:
    return [
        crop((Span("> " if i == table.choice else "  ", "accent"), Span(clean(name))), columns)
        for i, name in enumerate(table.found[: max(room, table.choice + 1)])
    ]
