"""The timeline of a pipeline: lanes to scale, the marked step, what the stages lose beside what theory says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from telemetry.diagnosis.figures import grouped
from telemetry.diagnosis.members import straggler
from telemetry.formulas import bubble_fill_drain
from telemetry.records import StepRecord
from telemetry.snapshot import DeploymentView, RankView, Snapshot
from tui.keys import Key
from tui.view.bars import history
from tui.view.columns import MARK
from tui.view.figures import UNAVAILABLE, age, milliseconds, percent
from tui.view.frame import Frame
from tui.view.gantt import LEGEND, Window, axis, drawn
from tui.view.lanes import BUBBLE, BUSY, RECV, Lane, end_of, groups, lanes
from tui.view.line import BLANK, Line, Part, Span, fit, keep, line, rule
from tui.view.options import Feed, Options, chosen
from tui.view.screen import head_and_foot
from tui.view.step import step_lines

SPANS_MS = (5, 10, 20, 50, 100, 200, 500, 1000, 3000)
_TALLEST = 3  # rows of a lane
_WIDE = 110  # columns from which a lane says in words what its figures are
_FEW = 4  # stages that are named one by one
_CHART = 5  # rows that make a chart worth drawing
_CHART_ROWS = 10
_BAR = 3  # columns of a step in it at most


@dataclass(frozen=True)
class Look:
    """Where the user looks. A live timeline follows the newest step: `end_ns` and `step` are for one that stands still."""

    by_rank: bool | None = None  # None: as the layout suggests
    group: int = 0
    zoom: int = SPANS_MS.index(100)
    end_ns: int | None = None
    row: int = 0
    step: int | None = None  # when the marked one began

    def live(self) -> Look:
        return replace(self, end_ns=None, step=None)


@dataclass(frozen=True)
class Scene:
    """What a look shows."""

    lanes: tuple[Lane, ...]
    window: Window
    first_ns: int
    newest_ns: int
    row: int
    marked: StepRecord | None


def by_rank(deployment: DeploymentView, look: Look) -> bool:
    """A row a stage where there are several, unless the user wants ranks."""
    return deployment.layout.get("pp", 1) < 2 if look.by_rank is None else look.by_rank


def scene(deployment: DeploymentView, records: Sequence[StepRecord], look: Look) -> Scene | None:
    """`None` where no step is known."""
    inside = {rank.info.rank for rank in deployment.ranks}
    known = [record for record in records if record.rank in inside]
    if not known:
        return None
    first, newest = min(record.start_ns for record in known), max(map(end_of, known))
    end = newest if look.end_ns is None else look.end_ns
    window = Window(end - round(SPANS_MS[look.zoom] * 1e6), end)
    found = lanes(deployment, known, by_rank(deployment, look), look.group, window)
    row = max(0, min(look.row, len(found) - 1))
    steps = found[row].steps
    marked = next((record for record in steps if record.start_ns == look.step), None)
    if marked is None:  # the newest of which the end is in sight
        marked = next((record for record in reversed(steps) if end_of(record) <= end), None)
    return Scene(tuple(found), window, first, newest, row, marked)


def scrolled(shown: Scene, look: Look, share: float) -> Look:
    """`share` of the window later; it never leaves what is known."""
    span = shown.window.end_ns - shown.window.start_ns
    end = shown.window.end_ns + round(share * span)
    return replace(look, end_ns=max(min(shown.first_ns + span, shown.newest_ns), min(shown.newest_ns, end)))


def zoomed(shown: Scene, look: Look, step: int) -> Look:
    """Nearer or farther, around the marked step where it is in sight, else around the middle."""
    zoom = max(0, min(len(SPANS_MS) - 1, look.zoom + step))
    old, span = shown.window, SPANS_MS[zoom] * 1e6
    centre = (old.start_ns + old.end_ns) / 2
    if look.step is not None and shown.marked is not None and old.start_ns <= shown.marked.start_ns < old.end_ns:
        centre = shown.marked.start_ns + shown.marked.wall_ns / 2
    if look.end_ns is None:
        return replace(look, zoom=zoom)
    nearer = replace(look, zoom=zoom, end_ns=round(centre + span / 2))
    return scrolled(replace(shown, window=Window(round(centre - span / 2), round(centre + span / 2))), nearer, 0.0)


def stepped(shown: Scene, look: Look, count: int) -> Look:
    """The step `count` places on in the marked row, brought into sight."""
    steps = shown.lanes[shown.row].steps
    if shown.marked is None or not steps:
        return look
    at = max(0, min(len(steps) - 1, steps.index(shown.marked) + count))
    begin, end = steps[at].start_ns, end_of(steps[at])
    span = shown.window.end_ns - shown.window.start_ns
    right = shown.window.end_ns
    if end > right:
        right = end + span // 4
    elif begin < right - span:
        right = begin + span - span // 4
    return scrolled(replace(shown, window=Window(right - span, right)), replace(look, step=begin), 0.0)


def pipeline(
    snapshot: Snapshot | None,
    records: Sequence[StepRecord],
    feed: Feed,
    options: Options,
    look: Look,
    keys: Sequence[Key],
    columns: int,
    rows: int,
) -> Frame:
    """The whole screen."""
    columns = max(1, columns)
    head, foot = head_and_foot(snapshot, feed, options, keys, columns, rows)
    deployment = chosen(snapshot, options)
    if snapshot is None or deployment is None:
        return Frame(head, foot=foot).cropped(columns, rows)
    shown = scene(deployment, records, look)
    room = max(0, rows - len(head) - len(foot))
    lower = summary(deployment, snapshot.window_s, columns) if room >= 8 else []
    legend = keep([Part(i, line(f" {text}", "dim")) for i, text in enumerate(LEGEND)], columns, " ") if room >= 14 else BLANK
    if shown is None:
        why = "no step was heard before the pause" if feed.paused_s is not None else "no step in the last seconds"
        nothing = line(f" {why}", "dim")
        return Frame([*head, rule(line("timeline", "title"), BLANK, columns)], [nothing], lower, foot).cropped(columns, rows)
    if shown.marked is not None and room >= 12:
        lower = [*step_lines(shown.lanes[shown.row], shown.marked, options.units, columns), *lower]
    lower = [legend, *lower] if legend else lower
    room = max(1, room - len(lower) - 2)
    high = max(1, min(_TALLEST, room // len(shown.lanes) - 1))
    gap = 1 if (high + 1) * len(shown.lanes) <= room else 0
    left, right = _edges(shown.lanes, columns)
    middle = max(0, columns - left - right)
    body: list[Line] = []
    for at, lane in enumerate(shown.lanes):
        body += _lane(lane, shown, at == shown.row, left, middle, high, columns) + [BLANK] * gap
    if room - len(body) > _CHART:
        body += _chart(shown, columns, min(room - len(body), _CHART_ROWS))
    head += [
        _title(deployment, shown, look, columns),
        (Span(" " * left), Span(axis(shown.window, shown.newest_ns, middle), "dim")),
    ]
    at = shown.row * (high + gap)
    return Frame(head, body, lower, foot, (at, at + high)).cropped(columns, rows)


def summary(deployment: DeploymentView, window_s: float, columns: int) -> list[Line]:
    """What the stages lose, measured beside the theory; who is busiest, who is late. Three lines."""
    title = rule(line("pipeline", "title"), line(f"last {window_s:.0f} s", "dim"), columns)
    return [title, _bubbles(deployment, columns), _critical(deployment, columns)]


def _bubbles(deployment: DeploymentView, columns: int) -> Line:
    stages = grouped(deployment.ranks, "pp")
    flying = deployment.engine.micro_batches
    means = [_mean([rank.bubble_pct for rank in ranks]) for ranks in stages]
    if len(stages) < 2:
        return keep(
            [Part(0, line(f" bubble {percent(means[0] if means else None)}")), Part(1, line("one stage: no theory"))], columns
        )
    measured = "by stage  " + "  ".join(f"{stage} {percent(mean)}" for stage, mean in enumerate(means))
    known = {mean: stage for stage, mean in enumerate(means) if mean is not None}
    if len(stages) > _FEW and known:
        measured = f"{percent(min(known))} to {percent(max(known))}, most in stage {known[max(known)]}"
    theory = f"theory {percent(deployment.ideal_bubble_pct)}"
    if flying is not None:
        theory += f" with {flying:.1f} micro-batches in flight"
    once = f"one fill and drain {percent(100 * bubble_fill_drain(len(stages), max(1, round(flying))))}" if flying else ""
    parts = [Part(0, line(f" bubble {measured}", "bold")), Part(1, line(theory)), Part(2, line(once, "dim") if once else BLANK)]
    return keep(parts, columns)


def _critical(deployment: DeploymentView, columns: int) -> Line:
    busy = {
        stage: mean
        for stage, ranks in enumerate(grouped(deployment.ranks, "pp"))
        if (mean := _mean([_work(rank) for rank in ranks])) is not None
    }
    parts = []
    if len(busy) > 1:
        longest = max(busy, key=lambda stage: busy[stage])
        parts.append(Part(0, line(f" critical path: stage {longest}, {percent(busy[longest])} at work")))
    if finding := next(straggler(deployment), None):
        parts.append(Part(0, line(f" straggler: {finding.headline}", "warn")))
    elif any(axis.late_ms is not None for rank in deployment.ranks for axis in rank.axes.values()):
        parts.append(Part(1, line(" no straggler")))
    return keep(parts, columns) or line(f" straggler {UNAVAILABLE}", "dim")


def _work(rank: RankView) -> float | None:
    return None if rank.split is None else rank.split.compute + rank.split.transfer


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _title(deployment: DeploymentView, shown: Scene, look: Look, columns: int) -> Line:
    replica, member = groups(deployment)[look.group % len(groups(deployment))]
    ranked = by_rank(deployment, look)
    names = [
        f"replica {replica}" if deployment.layout.get("dp", 1) > 1 else "",
        f"ep member {member}" if deployment.layout.get("ep", 1) > 1 and not ranked else "",
    ]
    left = keep(
        [
            Part(0, line("ranks" if ranked else "stages", "title")),
            Part(1, line(" ".join(name for name in names if name)) if any(names) else BLANK),
        ],
        columns - 30,
    )
    behind = (shown.newest_ns - shown.window.end_ns) / 1e9
    text = f"{SPANS_MS[look.zoom]:,} ms" + (f", {age(behind)} before the newest" if behind > 0 else " up to the newest")
    return rule(left, line(text), columns)


def _edges(found: Sequence[Lane], columns: int) -> tuple[int, int]:
    """Columns of the names on the left and of the figures on the right."""
    left = min(max(len(lane.title) for lane in found) + 3, max(3, columns // 4))
    return left, 32 if columns >= _WIDE else 5 if columns >= 40 else 0


def _lane(lane: Lane, shown: Scene, here: bool, left: int, middle: int, high: int, columns: int) -> list[Line]:
    shares = lane.shares(*shown.window)
    work = sum(shares.get(kind, 0.0) for kind in BUSY) if shares else None
    idle = shares.get(RECV, 0.0) + shares.get(BUBBLE, 0.0) if shares else None
    wait = lane.wait_share(*shown.window)
    work = work - wait if work is not None and wait is not None else work
    figures = f" {percent(work)}"
    if columns >= _WIDE:
        figures = f" work {percent(work):<4} wait {percent(wait):<4} bubble {percent(idle)}"
    marked = shown.marked if here else None
    rows = []
    for y in range(high):
        name = fit((Span(MARK if here else " ", "accent"), Span(lane.title, "title")), left) if y == 0 else (Span(" " * left),)
        end = line(figures) if y == 0 else BLANK
        rows.append((*name, *drawn(lane, shown.window, middle, marked, named=y == 0), *end))
    return rows


def _chart(shown: Scene, columns: int, rows: int) -> list[Line]:
    """The marked row's steps one a column, up to the right edge of what is drawn."""
    lane = shown.lanes[shown.row]
    walls = [record.wall_ns / 1e6 for record in lane.steps if record.start_ns < shown.window.end_ns][-(columns - 2) :]
    top = max(walls, default=0.0)
    each = max(1, min(_BAR, (columns - 2) // max(1, len(walls))))
    bars = [wall for wall in walls for _ in range(each)]
    title = rule(
        (Span(f"{lane.title}: wall ms of {len(walls)} steps", "title"),), line(f"up to {milliseconds(top)}", "dim"), columns
    )
    return [title, *(line(f" {row}", "graph") for row in history(bars, columns - 2, rows - 1, top, 0))]
