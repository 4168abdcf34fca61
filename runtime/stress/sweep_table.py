"""A sweep as text for people: a row a step under each layout, the frontier marked, and throughput against interactivity drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from runtime.planner.scatter import scatter
from runtime.stress.result import Result, Sweep, Trial
from runtime.stress.table import step_header, step_row

FRONTIER = "*"
_COLUMNS = 100


def frontier(results: Sequence[Result]) -> set[int]:
    """The places of those that no other beats in both throughput and interactivity (Pareto)."""
    points = [(result.output_tokens_per_s, result.interactivity or 0.0) for result in results]
    best = set()
    for place, (throughput, seen) in enumerate(points):
        beaten = any(t >= throughput and s >= seen and (t, s) != (throughput, seen) for t, s in points)
        if not beaten and throughput > 0:
            best.add(place)
    return best


def letters(sweep: Sweep) -> dict[str, str]:
    """A letter for each layout, in their order."""
    return {trial.layout: ascii_uppercase[place % 26] for place, trial in enumerate(sweep.trials)}


def trial_lines(trial: Trial) -> Iterator[str]:
    """One layout, as it ends."""
    if trial.why:
        yield f"{trial.layout}: not measured: {trial.why}"
    else:
        best = max(trial.steps, key=lambda step: step.output_tokens_per_s, default=None)
        rate = f", up to {best.output_tokens_per_s:.1f} tokens/s at {best.concurrency} at once" if best is not None else ""
        yield f"{trial.layout}: after a pause of {trial.pause_s or 0:.2f} s{rate}"


def sweep_rows(sweep: Sweep) -> Iterator[str]:
    """The table alone."""
    name, best = letters(sweep), _best(sweep)
    width = max([6, *(len(trial.layout) for trial in sweep.trials)])
    yield f"  {'layout':<{width}} {step_header()}"
    for trial in sweep.trials:
        for result in trial.steps:
            mark = FRONTIER if id(result) in best else " "
            yield f"{name[trial.layout]}{mark}{trial.layout:<{width}} {step_row(result)}"
        if trial.why:
            head = f"{name[trial.layout]} {trial.layout:<{width}} NOT MEASURED "
            yield from textwrap.wrap(trial.why, _COLUMNS, initial_indent=head, subsequent_indent=" " * (width + 3))


def sweep_plot(sweep: Sweep, columns: int = 72, rows: int = 16) -> list[str]:
    """Each step as its layout's letter; the lower concurrency stands where letters meet."""
    name = letters(sweep)
    marks = [
        (result.interactivity, result.output_tokens_per_s, name[trial.layout])
        for trial in sweep.trials
        for result in reversed(trial.steps)
        if result.interactivity is not None
    ]
    return scatter(marks, "tok/s that a client sees", "tok/s", columns, rows)


def sweep_lines(sweep: Sweep) -> Iterator[str]:
    """All of it."""
    yield from sweep_rows(sweep)
    yield f"{FRONTIER} no other step has both more throughput and more interactivity (1000 / TPOT p50)"
    yield ""
    yield from sweep_plot(sweep)
    yield "  ".join(f"{letter} {layout}" for layout, letter in letters(sweep).items())
    yield ending(sweep)


def ending(sweep: Sweep) -> str:
    """What the deployment serves now."""
    cut = "INTERRUPTED; " if sweep.interrupted else ""
    if sweep.unrestored:
        return f"{cut}'{sweep.name}' did NOT get its layout {sweep.first} back: {sweep.unrestored}"
    return f"{cut}'{sweep.name}' serves {sweep.first} again"


def _best(sweep: Sweep) -> set[int]:
    results = [result for trial in sweep.trials for result in trial.steps]
    return {id(results[place]) for place in frontier(results)}
