"""Where a rank's step goes: the parts in milliseconds, and of the time with work in percent."""

from __future__ import annotations

from telemetry.snapshot import AxisView, RankView, TimeSplit
from tui.view.bars import Share, bar, gauge
from tui.view.figures import milliseconds, percent
from tui.view.line import Line, Span, line, rule

_LATE = 0.05  # of a step: others that wait that long for this rank are news
_FIGURES = 31  # columns before the bar


def step_panel(rank: RankView, window_s: float, wide: int, columns: int) -> list[Line]:
    """Five rows and one for each axis; one more where others wait for this rank. `wide`: of the title; `columns`: of the rows."""
    median = (Span("step ", "title"), Span(f"{milliseconds(rank.step_ms)} ms", "bold"), Span(" median"))
    lines = [rule(median, line(f"means of {window_s:.0f} s", "dim"), wide), _split(rank.split, columns)]
    axes = [(name, rank.axes[name]) for name in ("tp", "ep", "pp", "dp") if name in rank.axes]
    known = [rank.compute_ms, rank.recv_wait_ms, rank.gap_ms, *(axis.wait_ms + axis.transfer_ms for _name, axis in axes)]
    total = sum(value for value in known if value is not None)
    lines.append(_part("compute", rank.compute_ms, [Share(rank.compute_ms or 0.0, "█", "weights")], total, columns))
    for name, axis in axes:
        shares = [Share(axis.transfer_ms, "▓", "kv"), Share(axis.wait_ms, "▒", "wait")]
        lines.append(_part(name, axis.transfer_ms + axis.wait_ms, shares, total, columns, axis))
    lines.append(_part("stage", rank.recv_wait_ms, [Share(rank.recv_wait_ms or 0.0, "·", "dim")], total, columns))
    lines.append(_part("host", rank.gap_ms, [Share(rank.gap_ms or 0.0, "·", "dim")], total, columns))
    late = [f"{name} {milliseconds(axis.late_ms)}" for name, axis in axes if total and (axis.late_ms or 0.0) >= _LATE * total]
    if late:
        lines.append(line(f" ! others wait: {', '.join(late)} ms", "warn"))
    return lines


def _part(name: str, value: float | None, shares: list[Share], total: float, columns: int, axis: AxisView | None = None) -> Line:
    """`tp       12.1 ms  wait 10.4  59% ▓▒▒▒▒▒▒▒`."""
    wait = f"wait {milliseconds(axis.wait_ms)}" if axis else ""
    share = percent(100 * value / total) if value is not None and total else percent(None)
    figures = f" {name:<8}{milliseconds(value):>5} ms {wait:<9} {share:>4} "
    return (Span(figures), *bar(shares, total, max(0, columns - _FIGURES)))


def _split(split: TimeSplit | None, columns: int) -> Line:
    """Of the time with work: the same glyphs as the step's parts."""
    if split is None:
        return line(f" of the time {percent(None)}", "dim")
    shares = [
        Share(split.compute, "█", "weights"),
        Share(split.transfer, "▓", "kv"),
        Share(split.wait, "▒", "wait"),
        Share(split.stage + split.host, "·", "dim"),
    ]
    words = f" of the time: idle {percent(split.stage + split.host)} "
    return (Span(words), *gauge(shares, 100.0, max(0, columns - len(words))))
