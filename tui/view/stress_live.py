"""A load that runs: how far it is, what its clients see, and whether to believe it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import PurePath

from runtime.stress.progress import WINDOWS, LoadState, Progress, Window
from runtime.stress.result import Second
from telemetry.snapshot import DeploymentView
from tui.view.bars import Share, gauge, history
from tui.view.figures import milliseconds, percent, short, size, whole
from tui.view.line import BLANK, Line, Part, Span, clean, fit, keep, line, rule, shortened
from tui.view.stress_table import good_line, latency_table, step_lines

TABLE_COLUMNS = 58
_BESIDE = 110  # columns from which history stands beside the figures
_LABEL, _FIGURE = 8, 7
_TALLEST = 6  # rows of a history
_PHASES = {
    "starting": ("◌", "warn"),
    "running": ("●", "good"),
    "stopping": ("○", "warn"),
    "over": ("✓", "good"),
    "failed": ("×", "bad"),
}


def live_lines(
    state: LoadState, deployment: DeploymentView | None, window: str, recorded: int | None, units: str, columns: int, rows: int
) -> list[Line]:
    """`recorded`: bytes of the recording so far. As many rows as there is something to say, histories as high as `rows` allow."""
    now = state.progress
    top = [title(state, columns)]
    if state.said or now is None:
        top.append(line(f" {clean(state.said) or 'asks the deployment'} ...", "accent"))
    if now is None:
        return [*top, *_steps_so_far(state)]
    top.append(_way(now, columns))
    narrow = columns if columns < _BESIDE else TABLE_COLUMNS
    waiting = deployment.engine.waiting if deployment is not None else None
    figures = _figures(now, now.windows[window], window, state, waiting, narrow)
    figures += [*_honesty(now, narrow), _recording(state, recorded, units, narrow)]
    figures += [_fault(done.fault, done.outcome, narrow) for done in now.faults]
    steps = _steps_so_far(state)
    room = rows - len(top) - len(steps)
    if columns < _BESIDE:
        return [*top, *figures, *graphs(now.history, deployment, columns, max(1, room - len(figures))), *steps]
    beside = graphs(now.history, deployment, columns - TABLE_COLUMNS - 1, max(room, len(figures)))
    high = max(len(figures), len(beside))
    pairs = zip(_padded(figures, high), _padded(beside, high), strict=True)
    return [*top, *((*fit(a, TABLE_COLUMNS), Span(" "), *b) for a, b in pairs), *steps]


def title(state: LoadState, columns: int) -> Line:
    """Which load, and in what phase."""
    glyph, role = _PHASES[state.phase]
    what = "sweep" if state.sweep else "steps" if state.stepping else ""
    words = keep(
        [
            Part(0, line("stress", "title")),
            Part(1, line(f"of {shortened(state.name, columns // 3)}")),
            Part(0, line(f"{glyph} {state.phase.upper()}", role)),
            Part(2, line(what) if what else BLANK),
        ],
        max(1, columns - 8),
    )
    return rule(words, BLANK, columns)


def _way(now: Progress, columns: int) -> Line:
    """The load in words, and how much of its time is over."""
    of = f" of {_clock(now.duration_s)}" if now.duration_s is not None else ""
    clock = f"{_clock(now.elapsed_s)}{of}"
    words: Line = (Span(f" {clean(now.load)}  "), Span(clock, "bold"))
    room = columns - sum(len(span.text) for span in words) - 3
    if now.duration_s is None or room < 8:
        return words
    bar = gauge([Share(min(now.elapsed_s, now.duration_s), "█", "weights")], now.duration_s, min(40, room))
    return (*words, Span("  "), *bar)


def _figures(now: Progress, window: Window, name: str, state: LoadState, waiting: int | None, columns: int) -> list[Line]:
    """`waiting`: requests in the deployment's own queue."""
    others = "  ".join(f"w: {each}" if each == _next(name) else "" for each in WINDOWS).strip()
    span = "the whole run" if WINDOWS[name] is None else f"the last {name}"
    counts = keep(
        [
            Part(0, (Span(f" {now.sent:,}", "bold"), Span(" sent"))),
            Part(0, (Span(f"{now.done:,}", "bold"), Span(" done"))),
            Part(0, line(f"{now.errors:,} errors", "bad" if now.errors else "")),
            Part(0, line(f"{now.in_flight:,} open")),
            Part(1, line(f"{whole(waiting)} queued", "warn" if waiting else "dim")),
        ],
        columns,
    )
    rates = keep(
        [
            Part(0, (Span(f" {short(window.output_tokens_per_s)}", "bold"), Span(" tok/s"))),
            Part(0, line(f"{_rate(window.sent_per_s)} sent/s")),
            Part(0, line(f"{_rate(window.done_per_s)} done/s")),
            Part(1, line(f"{window.errors:,} errors", "bad" if window.errors else "dim")),
        ],
        columns,
    )
    return [
        counts,
        rule(line(span, "title"), line(others, "dim"), columns),
        rates,
        *latency_table(window.latency, state.slo, columns),
        *good_line(window.good, window.judged),
    ]


def _next(name: str) -> str:
    names = list(WINDOWS)
    return names[(names.index(name) + 1) % len(names)]


def _honesty(now: Progress, columns: int) -> list[Line]:
    return honesty(now.behind, now.lag_ms_p99, now.late_ms_p99, now.cpu_share, columns)


def honesty(behind: str, lag: float | None, late: float | None, cpu_share: float, columns: int) -> list[Line]:
    """Whether to believe the load, by how late its requests left and its answers were seen."""
    facts = f"lag {milliseconds(lag)} late {milliseconds(late)} ms p99, {percent(100 * cpu_share)} core"
    if not behind:
        return [(Span(" ✓ ", "good"), Span("load is honest: "), Span(facts, "dim"))]
    words = textwrap.wrap(clean(behind), max(1, columns - 4))
    return [line(" ! NOT WHAT IT CLAIMS TO BE:", "warn"), *(line(f"   {row}", "warn") for row in words)]


def _recording(state: LoadState, recorded: int | None, units: str, columns: int) -> Line:
    if state.recording is None:
        return line(" REC --", "dim")
    if not state.recording.path:
        return line(f" not recorded: {clean(state.recording.why)}"[:columns], "warn")
    written = size(recorded, units)
    name = shortened(PurePath(state.recording.path).name, max(8, columns - len(written) - 9))
    return (Span(" ● REC", "bad"), Span(f" {name}"), Span(f" {written}", "bold"))


def _fault(fault: str, outcome: str, columns: int) -> Line:
    return (Span(" ! ", "warn"), Span(clean(f"{fault}: {outcome}")[: max(0, columns - 3)]))


def _steps_so_far(state: LoadState) -> list[Line]:
    lines: list[Line] = []
    for trial in state.trials:
        best = max((step.output_tokens_per_s for step in trial.steps), default=None)
        words = f" not measured: {clean(trial.why)}" if trial.why else f" up to {short(best)} tok/s"
        mark = Span(" × ", "warn") if trial.why else Span(" ✓ ", "good")
        lines.append((mark, Span(trial.layout, "bold"), Span(words)))
    if state.steps:
        lines += step_lines(state.steps, None)
    return lines


def graphs(seconds: Sequence[Second], deployment: DeploymentView | None, columns: int, rows: int) -> list[Line]:
    """Output, requests open and sent by second, as high as the rows allow. While it runs (`deployment`) each with its value now,
    and the ranks' use; else with its peak."""
    room = max(1, columns - _LABEL - _FIGURE - 1)
    if deployment is not None:
        seconds = seconds[-room:]
    shown: list[tuple[str, Sequence[float], float]] = [
        ("tok/s", [second.tokens for second in seconds], 0.0),
        ("open", [float(second.in_flight) for second in seconds], 0.0),
        ("sent/s", [float(second.sent) for second in seconds], 0.0),
    ]
    if deployment is not None:
        shown.append(("util %", _use(deployment)[-len(seconds) :] if seconds else (), 100.0))
    shown = shown[: max(1, rows)]
    each = max(1, min(_TALLEST, rows // len(shown)))
    last = seconds[-1].at_s if seconds else 0
    lines: list[Line] = []
    for name, values, top in shown:
        drawn = history(values, min(room, max(1, len(seconds))), each, top or max(values, default=0.0), last)
        told = None if not values else values[-1] if deployment is not None else max(values)
        for place, row in enumerate(drawn):
            label, figure = (name, short(told)) if place == len(drawn) - 1 else ("", "")
            lead = (Span(f" {label:<{_LABEL - 1}}", "dim"), Span(figure.rjust(_FIGURE - 1) + " ", "bold"))
            lines.append((*lead, Span(row, "graph")))
    return lines


def _use(deployment: DeploymentView) -> list[float]:
    """Mean of the ranks' busy share, percent by second."""
    histories = [rank.util_history for rank in deployment.ranks if rank.util_history]
    long = min((len(each) for each in histories), default=0)
    return [sum(each[place - long] for each in histories) / len(histories) for place in range(long)]


def _padded(lines: list[Line], high: int) -> list[Line]:
    return (lines + [BLANK] * high)[:high]


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 99.95 else short(value)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02}:{int(seconds) % 60:02}"
