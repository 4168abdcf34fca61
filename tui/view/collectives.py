"""Collectives by axis, op and size class: how often, how fast, how much of it is waiting, and for whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import prod

from telemetry.snapshot import CollectiveView, DeploymentView, Snapshot
from tui.keys import Key, hint
from tui.view.bars import Share, gauge
from tui.view.columns import Column, fitting, row, titles
from tui.view.figures import UNAVAILABLE, milliseconds, percent, short, size
from tui.view.filters import passes
from tui.view.frame import Frame
from tui.view.line import BLANK, Line, Span, clean, crop, line, rule
from tui.view.options import Feed, Options, chosen
from tui.view.screen import head_and_foot

MOSTLY_PCT = 50.0  # of a call, from which waiting is the news
_LEAST_SHOWN = 5e6  # bytes/s that two decimals of GB/s show
_THOUSANDS_FROM = 99_950.0  # microseconds
_LEAST_RATE, _WHOLE_FROM = 0.005, 99.95  # calls a second: what two decimals show, what needs none
_CHART = 4  # rows that make the chart worth drawing
_NAME = 20  # columns of a kind's name in the chart
_BAR = 60  # columns of its bars at most


@dataclass(frozen=True)
class Link:
    """What a device can send to its peers. Bytes/s in one direction."""

    name: str
    bandwidth: float


def time_ms(kind: CollectiveView) -> float:
    """That a rank spends in it, of each second."""
    return kind.calls_per_s * (kind.wait_us + kind.transfer_us) / 1e3


def wait_pct(kind: CollectiveView) -> float | None:
    whole = kind.wait_us + kind.transfer_us
    return 100 * kind.wait_us / whole if whole > 0 else None


_FIGURES: dict[str, Callable[[CollectiveView], float | None]] = {
    "time": time_ms,
    "calls": lambda kind: kind.calls_per_s,
    "size": lambda kind: kind.bytes,
    "p50": lambda kind: kind.p50_us,
    "p99": lambda kind: kind.p99_us,
    "wait": wait_pct,
    "busbw": lambda kind: None if kind.bus_bandwidth is None else kind.bus_bandwidth / 1e9,
    "late": lambda kind: kind.late_us,
}
SORTS = ("kind", *_FIGURES)
FILTER_HELP = "tp  all-reduce  r3  p99>100  wait>50  late>20  (all must hold)"


def link_of(deployment: DeploymentView) -> Link | None:
    """What joins its devices; `None` where nothing does, as on a CPU, or it is not known."""
    peaks = deployment.peaks
    return Link(peaks.link, peaks.link_bandwidth) if peaks is not None and peaks.link_bandwidth else None


def arranged(kinds: Sequence[CollectiveView], expression: str, sort: str) -> list[CollectiveView]:
    """Those that pass the filter; by axis, op and size, or greatest first with the unavailable last."""
    kept = [kind for kind in kinds if _matches(kind, expression)]
    figure = _FIGURES.get(sort)
    if figure is None:
        return sorted(kept, key=lambda kind: (kind.axis, kind.op, kind.size_class))

    def greatest_first(kind: CollectiveView) -> tuple[bool, float, str, str, int]:
        value = figure(kind)
        return value is None, -(value or 0.0), kind.axis, kind.op, kind.size_class

    return sorted(kept, key=greatest_first)


def _matches(kind: CollectiveView, expression: str) -> bool:
    names = [kind.axis, kind.op, kind.op.replace("_", "-"), f"r{kind.straggler}"]
    return passes(expression, names, {name: partial(figure, kind) for name, figure in _FIGURES.items()})


def collectives(
    snapshot: Snapshot | None,
    feed: Feed,
    options: Options,
    expression: str,
    sort: str,
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
    kinds = arranged(deployment.collectives, expression, sort)
    link = link_of(deployment)
    shown = fitting(_columns(kinds, link, options), columns)
    window = f"{snapshot.window_s:.0f} s, by {sort}"
    found = f"{len(kinds)} of {len(deployment.collectives)}" if expression else f"{len(kinds)}"
    wanted: Line = (Span("collectives", "title"), Span(f"  / {clean(expression)}" if expression else "", "accent"))
    head += [rule(wanted, line(f"{found}, last {window}", "dim"), columns), crop(titles(shown, sort), columns)]
    body = [crop(row(shown, kind), columns) for kind in kinds] or [_none(deployment, expression, keys)]
    room = rows - len(head) - len(foot) - len(body) - 1
    chart = _chart(kinds, link, columns, room) if kinds and room >= _CHART else []
    return Frame(head, [*body, BLANK, *chart] if chart else body, foot=foot).cropped(columns, rows)


def _none(deployment: DeploymentView, expression: str, keys: Sequence[Key]) -> Line:
    if deployment.collectives:
        return line(f" no collective matches '{clean(expression)}'" + hint(keys, "clear_filter", "; {} clears the filter"), "dim")
    if deployment.layout and prod(degree for axis, degree in deployment.layout.items() if axis != "dp") == 1:
        return line(" this layout needs no collectives: each replica is one rank", "dim")
    return line(" no collective in the window", "dim")


def _columns(kinds: Sequence[CollectiveView], link: Link | None, options: Options) -> list[Column[CollectiveView]]:
    names = max((len(_name(kind)) for kind in kinds), default=10)
    of_link = f"of {link.bandwidth / 1e9:,.0f}" if link else "of link"
    return [
        Column("collective", "kind", names, 0, lambda k, w: line(_name(k), "title"), "<"),
        Column("up to", "size", 5, 0, lambda k, w: line(_size(k))),
        Column("calls/s", "calls", 7, 2, lambda k, w: line(_rate(k.calls_per_s))),
        Column("B/s", "", 5, 8, lambda k, w: line(size(k.calls_per_s * k.bytes, options.units))),
        Column("ms/s", "time", 5, 4, lambda k, w: line(milliseconds(time_ms(k)))),
        Column("p50 us", "p50", 6, 0, lambda k, w: line(_microseconds(k.p50_us))),
        Column("p99 us", "p99", 6, 0, lambda k, w: line(_microseconds(k.p99_us))),
        Column("wait p99", "", 8, 9, lambda k, w: line(_microseconds(k.wait_p99_us))),
        Column("algbw", "", 5, 7, lambda k, w: line(_gb(k.algorithm_bandwidth))),
        Column("busbw", "busbw", 5, 1, lambda k, w: line(_gb(k.bus_bandwidth), "bold")),
        Column(of_link, "", len(of_link), 5, lambda k, w: line(percent(_of_link(k, link)))),
        Column("wait", "wait", 5, 1, lambda k, w: _wait(k)),
        Column("▓ transfer ▒ wait", "", 12, 6, _split, "<", 40),
        Column("late", "late", 10, 1, lambda k, w: _late(k), "<"),
    ]


def _name(kind: CollectiveView) -> str:
    return f"{clean(kind.axis)} {clean(kind.op).replace('_', '-')} x{kind.members}"


def _size(kind: CollectiveView) -> str:
    return size(float(1 << min(60, max(0, kind.size_class))), "GiB")


def _gb(value: float | None) -> str:
    """GB/s, as nccl-tests prints."""
    if value is not None and 0 < value < _LEAST_SHOWN:
        return "<0.01"
    return milliseconds(None if value is None else value / 1e9)


def _microseconds(value: float | None) -> str:
    """Six characters at most: `35.0`, `45,275`, `665k`."""
    return milliseconds(value) if value is None or value < _THOUSANDS_FROM else f"{value / 1e3:,.0f}k"


def _rate(value: float) -> str:
    if 0 < value < _LEAST_RATE:
        return "<0.01"
    return milliseconds(value) if value < _WHOLE_FROM else short(value)


def _of_link(kind: CollectiveView, link: Link | None) -> float | None:
    return 100 * kind.bus_bandwidth / link.bandwidth if link and kind.bus_bandwidth is not None else None


def _wait(kind: CollectiveView) -> Line:
    share = wait_pct(kind)
    mostly = share is not None and share >= MOSTLY_PCT
    return line(percent(share) + ("!" if mostly else ""), "warn" if mostly else "")


def _split(kind: CollectiveView, columns: int) -> Line:
    shares = [Share(kind.transfer_us, "▓", "kv"), Share(kind.wait_us, "▒", "wait")]
    return gauge(shares, kind.transfer_us + kind.wait_us, columns)


def _late(kind: CollectiveView) -> Line:
    """For whom the others wait, and how long a call. Along pp nobody can be late: a stage waits for the one before."""
    if kind.straggler is None:
        return line(UNAVAILABLE if kind.axis == "pp" else "nobody", "dim")
    return line(f"r{kind.straggler} {_microseconds(kind.late_us)}", "warn")


def _chart(kinds: Sequence[CollectiveView], link: Link | None, columns: int, rows: int) -> list[Line]:
    """Bus bandwidth by size, a bar a size class, all on one scale."""
    known = sorted((k for k in kinds if k.bus_bandwidth is not None), key=lambda k: (k.axis, k.op, k.size_class))
    best = max((kind.bus_bandwidth or 0.0 for kind in known), default=0.0)
    if not best:
        return []
    top, scale = best, f"GB/s, bars up to the best, {_gb(best)}"
    if link and best >= link.bandwidth / 10:
        top, scale = link.bandwidth, f"GB/s, bars up to {link.name}'s {_gb(link.bandwidth)}"
    lines = [rule(line("bus bandwidth by size", "title"), line(scale, "dim"), columns)]
    for name, same in groupby(known, key=_name):
        for at, kind in enumerate(same):
            figures = f" {name if at == 0 else '':<{_NAME}} {_size(kind):>5} {_gb(kind.bus_bandwidth):>6} "
            bar = gauge([Share(kind.bus_bandwidth or 0.0, "█", "graph")], top, min(_BAR, columns - len(figures)))
            lines.append((Span(figures), *bar))
    return lines[:rows]
