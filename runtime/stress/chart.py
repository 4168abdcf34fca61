"""Line charts as inline SVG: pure text, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 26, 34
# told apart by colour-blind readers (Okabe and Ito), and by their dashes without any colour
STYLES = (
    ("#0072b2", ""),
    ("#d55e00", "6 3"),
    ("#009e73", "2 3"),
    ("#cc79a7", "8 3 2 3"),
    ("#56b4e9", "12 3"),
    ("#e69f00", "4 2 1 2"),
    ("#000000", "1 2"),
)
LEGEND = 150  # between the names of two lines, at most
TICKS = 4

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """`points` None: a gap, nothing was measured there. `labels`: words at the points."""

    name: str
    points: Sequence[Point | None]
    labels: Sequence[str] = ()


def line_chart(title: str, x_name: str, y_name: str, lines: Sequence[Line], marks: Sequence[tuple[float, str]] = ()) -> str:
    """`marks`: vertical lines at an x, with words."""
    points = [point for line in lines for point in line.points if point is not None]
    if not points:
        return f"<figure><figcaption>{escape(title)}</figcaption><p>nothing was measured</p></figure>"
    low = min(x for x, _ in points)
    high = max(max(x for x, _ in points), low + 1e-9)
    top = max(max(y for _, y in points) * 1.05, 1e-9)

    def across(x: float) -> float:
        return LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    apart = min(LEGEND, (WIDTH - LEFT) // len(lines))
    parts = [*_grid(low, high, top, x_name, y_name)]
    for x, words in marks:
        if low <= x <= high:
            parts.append(f'<line x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="mark"/>')
            parts.append(f'<text x="{across(x) + 3:.1f}" y="{TOP + 10}" class="word">{escape(words)}</text>')
    for place, line in enumerate(lines):
        colour, dashes = STYLES[place % len(STYLES)]
        for run in _runs(line.points):
            path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in run)
            parts.append(f'<polyline points="{path}" stroke="{colour}" stroke-dasharray="{dashes}"/>')
            parts.extend(f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="2" fill="{colour}"/>' for x, y in run)
        for point, words in zip(line.points, line.labels, strict=False):
            if point is not None:
                parts.append(f'<text x="{across(point[0]) + 4:.1f}" y="{up(point[1]) - 5:.1f}">{escape(words)}</text>')
        x = LEFT + apart * place
        parts.append(f'<line x1="{x}" x2="{x + 22}" y1="12" y2="12" stroke="{colour}" stroke-dasharray="{dashes}"/>')
        parts.append(f'<text x="{x + 27}" y="16">{escape(line.name)}</text>')
    drawn = "".join(parts)
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{drawn}</svg>'
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"


def _grid(low: float, high: float, top: float, x_name: str, y_name: str) -> list[str]:
    floor = HEIGHT - BOTTOM
    parts = []
    for tick in range(TICKS + 1):
        y = floor - tick / TICKS * (floor - TOP)
        x = LEFT + tick / TICKS * (WIDTH - LEFT - RIGHT)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{top * tick / TICKS:.3g}</text>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 14}" text-anchor="middle">{low + (high - low) * tick / TICKS:.3g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end" class="word">{escape(x_name)}</text>')
    parts.append(f'<text x="4" y="{HEIGHT - 5}" class="word">{escape(y_name)}</text>')
    return parts


def _runs(points: Sequence[Point | None]) -> list[list[Point]]:
    """The points between gaps."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]
