"""A scatter plot in plain characters: it needs no colour and no width beyond what it is given."""

from __future__ import annotations

from collections.abc import Sequence

Mark = tuple[float, float, str]  # x, y, one character; later marks cover earlier ones


def scatter(marks: Sequence[Mark], x_name: str, y_name: str, width: int = 72, height: int = 16) -> list[str]:
    """Lines of a plot from (0, 0) to the largest values, labelled at its corners."""
    if not marks:
        return []
    right = max(x for x, _, _ in marks) or 1.0
    top = max(y for _, y, _ in marks) or 1.0
    grid = [[" "] * width for _ in range(height)]
    for x, y, character in marks:
        grid[height - 1 - round(y / top * (height - 1))][round(x / right * (width - 1))] = character
    gutter = max(len(f"{top:,.0f}"), 1)
    labels = {0: f"{top:,.0f}", height - 1: "0"}
    lines = [f"{'':>{gutter}} {y_name}"]
    lines += [f"{labels.get(i, ''):>{gutter}} |{''.join(row).rstrip()}" for i, row in enumerate(grid)]
    end = f"{right:,.0f} {x_name}"
    lines.append(f"{'':>{gutter}} +{'-' * width}")
    lines.append(f"{'':>{gutter}}  0{end:>{width - 1}}")
    return lines
