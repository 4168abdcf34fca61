"""Two recordings beside each other: what differs in how they were made, then each measure with its interval and its word."""

from __future__ import annotations

from collections.abc import Sequence

from profiles.comparison import BETTER, NOISE, WORSE, Change, Comparison
from profiles.courses import Alignment, Course
from telemetry.snapshot import Snapshot
from tui.keys import Key, hint
from tui.view.bars import level
from tui.view.columns import Column, fitting, row, titles
from tui.view.figures import UNAVAILABLE, age
from tui.view.frame import Frame
from tui.view.line import Line, Span, clean, crop, line, rule
from tui.view.options import Feed, Options
from tui.view.screen import head_and_foot
from tui.view.verdict import Verdict

_ROLES = {BETTER: "good", WORSE: "bad", NOISE: "dim"}
_WORDS = {BETTER: "better", WORSE: "WORSE", NOISE: "noise"}
_WIDEST = 0.6  # a share: intervals are drawn to scale up to there
_NAMED = 3  # measures in the verdict


def comparison_verdict(found: Comparison) -> Verdict:
    """The news, the greatest first."""
    worse, better = _by_size(found, WORSE), _by_size(found, BETTER)
    if worse:
        return Verdict(
            "warn", f"B is worse: {_listed(worse)}; " + (f"better: {_listed(better)}" if better else "nothing is better")
        )
    if better:
        return Verdict("good", f"B is better: {_listed(better)}; nothing is worse")
    return Verdict("info", f"no difference beyond noise in {len(found.changes)} measures")


def compared(
    found: Comparison,
    everything: bool,
    align: Alignment,
    snapshot: Snapshot | None,
    feed: Feed,
    options: Options,
    keys: Sequence[Key],
    columns: int,
    height: int,
) -> Frame:
    """The whole screen. `everything`: with the measures inside noise; `align`: of the courses."""
    head, foot = head_and_foot(snapshot, feed, options, keys, columns, height, comparison_verdict(found))
    body = comparison_lines(found, everything, hint(keys, "everything", ": {} shows them"), columns)
    other = "tokens" if align == "time" else "time"
    body += course_lines(found.courses, align, hint(keys, "realign", f", {{}}: by {other}"), columns)
    return Frame(head, body, [], foot).cropped(columns, height)


def comparison_lines(found: Comparison, everything: bool, more: str, columns: int) -> list[Line]:
    lines = [rule(line("compare", "title"), line("B against A", "dim"), columns)]
    lines += [_pair("A", found.a, columns), _pair("B", found.b, columns)]
    lines.append(rule(line("made otherwise", "title"), line(str(len(found.differences)), "dim"), columns))
    longest = max((len(each.field) for each in found.differences), default=0)
    for each in found.differences:
        what, arrow = Span(f" {clean(each.field):<{longest}}  ", "dim"), Span(" → ", "accent")
        lines.append(crop((what, Span(_said(each.a)), arrow, Span(_said(each.b))), columns))
    if not found.differences:
        lines.append(line(" in the same way, as far as the recordings say", "dim"))
    lines += [crop(line(f" ! {clean(words)}", "warn"), columns) for words in found.warnings]
    news = [each for each in found.changes if each.verdict != NOISE]
    shown = found.changes if everything or not news else news
    shaped = fitting(_columns(shown), columns)
    lines.append(rule(line("measures", "title"), line("95% intervals of the change", "dim"), columns))
    lines.append(crop(titles(shaped, ""), columns))
    lines += [crop(row(shaped, each), columns) for each in shown]
    hidden = len(found.changes) - len(shown)
    if hidden:
        lines.append(line(f" {hidden} measures inside noise{more}", "dim"))
    return lines


def course_lines(found: Sequence[Course], align: Alignment, other: str, columns: int) -> list[Line]:
    """A over B for each measure, on one scale."""
    shown = [course for course in found if course.align == align]
    if not shown:
        return []
    span = f"{age(shown[0].span)} since work began" if align == "time" else f"{shown[0].span:,.0f} output tokens"
    lines = [rule(line("courses", "title"), line(f"over {span}{other}", "dim"), columns)]
    for course in shown:
        top = max(value for value in (*course.a, *course.b) if value is not None)
        names = (f" {course.measure:<15}A ", f" {f'to {_figure(top)} {course.unit}':<15}B ")
        for name, points, role in zip(names, (course.a, course.b), ("", "accent"), strict=True):
            lines.append(crop((Span(name, "dim"), Span(_course(points, top, columns - len(name) - 1), role)), columns))
    return lines


def _course(points: Sequence[float | None], top: float, columns: int) -> str:
    """A cell is the mean of its points; where there is none, nothing is drawn."""
    columns = min(columns, len(points))
    cells = []
    for cell in range(columns):
        inside = points[cell * len(points) // columns : (cell + 1) * len(points) // columns]
        known = [value for value in inside if value is not None]
        cells.append(level(sum(known) / len(known), top) if known else " ")
    return "".join(cells)


def _columns(shown: Sequence[Change]) -> list[Column[Change]]:
    scale = max((abs(edge) / _whole(each) for each in shown for edge in (each.low, each.high) if edge is not None), default=0.0)
    scale = min(_WIDEST, max(scale, 0.02))
    return [
        Column("measure", "", 10, 0, lambda c, w: line(c.measure, "bold" if c.verdict != NOISE else "dim"), "<"),
        Column("A", "", 8, 1, lambda c, w: line(_figure(c.a), _quiet(c))),
        Column("B", "", 8, 0, lambda c, w: line(_figure(c.b), _quiet(c))),
        Column("", "", 5, 3, lambda c, w: line(c.unit, "dim"), "<"),
        Column("change", "", 8, 0, lambda c, w: line(_delta(c), _ROLES[c.verdict])),
        Column("", "", 6, 0, lambda c, w: line(_WORDS[c.verdict], _ROLES[c.verdict]), "<"),
        Column("interval", "", 19, 2, lambda c, w: line(_interval(c), _quiet(c)), "<"),
        Column("", "", 21, 4, lambda c, w: _drawn(c, scale, w), "<", 61),
    ]


def _drawn(change: Change, scale: float, columns: int) -> Line:
    """The interval to scale, no change in the middle: `     │  ━━o━━ `."""
    columns -= 1 - columns % 2
    middle = columns // 2
    cells = [" "] * columns
    if change.low is not None and change.high is not None and change.delta is not None:

        def place(value: float) -> int:
            return max(0, min(columns - 1, round(middle + value / _whole(change) / scale * middle)))

        for cell in range(place(change.low), place(change.high) + 1):
            cells[cell] = "━"
        cells[middle] = "┿" if cells[middle] == "━" else "│"
        cells[place(change.delta)] = "o"
    else:
        cells[middle] = "│"
    return line("".join(cells), _ROLES[change.verdict])


def _by_size(found: Comparison, verdict: str) -> list[Change]:
    mine = [each for each in found.changes if each.verdict == verdict]
    return sorted(mine, key=lambda each: -abs(each.delta or 0) / _whole(each))


def _listed(changes: Sequence[Change]) -> str:
    more = f" and {len(changes) - _NAMED} more" if len(changes) > _NAMED else ""
    return ", ".join(f"{each.measure} {_delta(each)}" for each in changes[:_NAMED]) + more


def _whole(change: Change) -> float:
    """What makes a share of a delta: points are hundredths."""
    return 100.0 if change.points else 1.0


def _delta(change: Change) -> str:
    if change.delta is None:
        return "--"
    return f"{change.delta:+.1f} pt" if change.points else f"{100 * change.delta:+.1f}%"


def _interval(change: Change) -> str:
    if change.low is None or change.high is None:
        return "too few samples"
    factor, unit = (1.0, " pt") if change.points else (100.0, "%")
    return f"{factor * change.low:+.1f} .. {factor * change.high:+.1f}{unit}"


def _figure(value: float | None) -> str:
    if value is None:
        return UNAVAILABLE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _quiet(change: Change) -> str:
    return "dim" if change.verdict == NOISE else ""


def _pair(name: str, path: str, columns: int) -> Line:
    return crop((Span(f" {name}  ", "accent"), Span(clean(path))), columns)


def _said(value: object) -> str:
    return "(not said)" if value in (None, "", []) else clean(str(value))
