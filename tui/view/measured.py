"""What the planner says of a running deployment beside what its ranks tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.view.figures import UNAVAILABLE, short
from tui.view.line import Line, Span, clean, line
from tui.view.wrap import wrapped

if TYPE_CHECKING:
    from runtime.planner.comparison import Compared, Comparison

FAR_OFF = 0.25  # of a prediction, from which it stands out


def measured_lines(comparison: Comparison | str | None, columns: int, rows: int) -> list[Line]:
    """A term a line; where there is no room for all, not those that nobody measures. Text says why there is no comparison."""
    if comparison is None or isinstance(comparison, str):
        return [line(part, "dim") for part in wrapped(comparison or "nothing is deployed", columns, 3)]
    calibrated = not comparison.state.startswith("uncalibrated")
    lines = [line(part, "dim" if calibrated else "warn") for part in wrapped(clean(comparison.state), columns, 2)]
    lines += [line(part, "dim") for part in wrapped(clean(comparison.words), columns, 2)]
    lines.append(line(f"{'':<17}{'predicted':>10}{'measured':>10}    off", "dim"))
    whole = len(lines) + len(comparison.rows) <= rows
    return lines + [_row(each) for each in comparison.rows if whole or each.measured is not None]


def _row(each: Compared) -> Line:
    off = each.off
    far = off is not None and abs(off) >= FAR_OFF
    error = "" if off is None else f"{off:+6.0%}{'!' if far else ''}"
    return (
        Span(f"{each.name:<17}", "bold"),
        Span(f"{_figure(each.predicted):>10}{_figure(each.measured):>10} "),
        Span(f"{error:<8}", "warn" if far else "dim"),
        Span(each.unit, "dim"),
    )


def _figure(value: float | None) -> str:
    if value is None:
        return UNAVAILABLE
    return short(value) if abs(value) >= 1000 else f"{value:.3g}"
