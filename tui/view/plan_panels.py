"""What stands below the table of the plan screen: a layout taken apart, the plot, other use cases, changes, what was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from runtime.planner.scatter import scatter
from tui.view.bars import Share, gauge
from tui.view.figures import milliseconds, short, size, whole
from tui.view.line import BLANK, Line, Part, Span, clean, crop, keep, line, rule
from tui.view.measured import measured_lines
from tui.view.wrap import wrapped

if TYPE_CHECKING:
    from runtime.planner.comparison import Comparison
    from runtime.planner.search import Choice, Entry
    from runtime.planner.serving import Prediction
    from tui.planning import Planned

PANELS = ("split", "plot", "cases", "changes", "measured")


def panel(
    name: str,
    planned: Planned,
    entry: Entry | None,
    point: Prediction | None,
    comparison: Comparison | str | None,
    columns: int,
    rows: int,
) -> list[Line]:
    """One of PANELS, its title first. `entry`, `point`: the marked layout at its load."""
    draw: dict[str, Callable[[], tuple[str, list[Line]]]] = {
        "split": lambda: _split(entry, point, columns),
        "plot": lambda: _plot(planned, entry, columns, rows),
        "cases": lambda: ("best by use case", _cases(planned, columns)),
        "changes": lambda: ("what would change", _changes(planned, columns)),
        "measured": lambda: ("predicted and measured", measured_lines(comparison, columns, rows)),
    }
    title, lines = draw[name]()
    return [rule(line(title, "title"), BLANK, columns), *(crop(each, columns) for each in lines[:rows])]


def _split(entry: Entry | None, point: Prediction | None, columns: int) -> tuple[str, list[Line]]:
    """A decode step and a prompt's pass by what takes them, the bound of tensor parallelism, the cache."""
    from runtime.planner.serving import amdahl

    if entry is None or point is None:
        return "the marked layout", [line("no figures: it does not run", "dim")]
    lines = [line(f"{'':<11}{'step ms':>8} {'prompt':>8}", "dim")]
    bar = min(40, columns - 30)
    for name in point.step._fields:
        step, prompt = getattr(point.step, name), getattr(point.prompt, name)
        limits = name == point.limit
        spans = [
            Span(f"{name.replace('_', '-'):<11}", "bold" if limits else ""),
            Span(f"{milliseconds(1e3 * step):>8} {milliseconds(1e3 * prompt):>8} ", "bold" if limits else ""),
        ]
        if bar >= 8:
            spans += gauge([Share(step, "█", "warn" if limits else "weights")], point.step.total, bar)
        lines.append(tuple(spans))
    lines.append(
        line(f"{'in all':<11}{milliseconds(1e3 * point.step.total):>8} {milliseconds(1e3 * point.prompt.total):>8}", "bold")
    )
    now, bound = amdahl(point)
    moved = ", ".join(f"{axis} {short(value / 1e3)}" for axis, value in point.bytes_per_token.items() if value) or "none"
    texts = [
        f"Amdahl: tp {point.sharding.tp} makes a step {now:.1f}x as fast as one rank; never more than {bound:.1f}x",
        f"memory a rank: weights {size(point.memory.weights, 'GiB')}, KV {size(point.memory.kv, 'GiB')}"
        f" = {whole(point.memory.kv_tokens)} tokens; at most {whole(entry.largest_batch)} requests",
        f"KB sent a token by axis: {moved}",
        *entry.warnings,
    ]
    for text in texts:
        lines += [line(part, "dim") for part in wrapped(text, columns, 2)]
    return f"{point.sharding} at {whole(point.batch)} requests", lines


def _plot(planned: Planned, entry: Entry | None, columns: int, rows: int) -> tuple[str, list[Line]]:
    """Every load of every layout; `o` those that nothing beats, `x` the marked layout, `@` the choice."""
    plan = planned.plan
    assert plan is not None
    marks = [(p.tokens_s_user, p.tokens_s_gpu, ".") for each in plan.entries for p in each.points]
    marks += [(p.tokens_s_user, p.tokens_s_gpu, "o") for p in plan.front]
    if entry is not None:
        marks += [(p.tokens_s_user, p.tokens_s_gpu, "x") for p in entry.points]
    if plan.choice is not None:
        marks.append((plan.choice.point.tokens_s_user, plan.choice.point.tokens_s_gpu, "@"))
    gutter = len(f"{max((y for _x, y, _c in marks), default=0):,.0f}") + 3
    drawn = scatter(marks, "tok/s/user", "tok/s/GPU", max(8, columns - gutter), max(3, rows - 3))
    roles = {"o": "accent", "@": "good", "x": "warn", ".": "dim"}
    lines = []
    for text in drawn:
        inside = "|" in text
        head, bar, rest = text.partition("|") if inside else (text, "", "")
        lines.append((Span(head + bar, "dim"), *(Span(character, roles.get(character, "")) for character in rest)))
    return "o: nothing beats it   x: marked   @: choice", lines


def _cases(planned: Planned, columns: int) -> list[Line]:
    return [_chosen(f"{name:<16}", choice, columns) for name, choice in planned.cases.items()]


def _changes(planned: Planned, columns: int) -> list[Line]:
    if not planned.changed:
        return [line("worked out while you look ..." if planned.plan and planned.plan.choice else "nothing fits", "dim")]
    return [_chosen(f"{words:<16}", choice, columns) for words, choice in planned.changed]


def _chosen(name: str, choice: Choice | None, columns: int) -> Line:
    """Its figures, and as many whole clauses of why as there is room for."""
    if choice is None:
        return (Span(name), Span(" nothing fits", "dim"))
    point = choice.point
    mark = Span("✓ ", "good") if choice.met else Span("! ", "warn")
    figures = f"{point.sharding!s:<9} {short(point.tokens_s_gpu):>6}/GPU {point.tokens_s_user:>6.1f}/user"
    first = Part(0, (Span(name), mark, Span(figures, "bold")))
    return keep([first, *(Part(i, line(clean(each), "dim")) for i, each in enumerate(choice.why, 1))], columns)
