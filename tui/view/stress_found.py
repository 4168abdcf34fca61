"""A load that is over: what it found, whether to believe it, and where it lies."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import PurePath

from runtime.stress.progress import LoadState
from runtime.stress.result import Found, Latency, Result, Steps, Sweep
from telemetry.snapshot import DeploymentView
from tui.view.figures import UNAVAILABLE, milliseconds, percent, short
from tui.view.line import BLANK, Line, Part, Span, clean, crop, keep, line, rule
from tui.view.stress_live import graphs, honesty, title
from tui.view.stress_table import latency_table, step_lines

_LEAST_GRAPH = 3
_PLOT_ROWS = 12


def found_lines(state: LoadState, deployment: DeploymentView | None, again: str, columns: int, rows: int) -> list[Line]:
    """As many rows as there is to say; the histories of a single load fill what `rows` leave."""
    top = [title(state, columns)]
    if state.error:
        return [*top, *_wrapped(state.error, columns, "bad"), line(f" {again}", "dim")]
    found = state.found
    if found is None:
        return top
    body = _found(found, columns)
    files = _files(found, state, columns)
    lines = [*top, *body, *files]
    room = rows - len(lines) - 1
    if isinstance(found, Result) and room >= _LEAST_GRAPH:
        lines += [rule(line("by second, up to", "title"), BLANK, columns), *graphs(found.timeline, None, columns, room)]
    return lines


def _found(found: Found, columns: int) -> list[Line]:
    match found:
        case Result():
            return _result(found, columns)
        case Steps():
            return _steps(found, columns)
        case Sweep():
            return _sweep(found, columns)


def _result(found: Result, columns: int) -> list[Line]:
    asked = found.requests
    cut = [Part(0, line("INTERRUPTED", "warn"))] if found.interrupted else []
    what = keep(
        [
            Part(0, line(f" {clean(found.load)}")),
            Part(1, line(f"prompts {found.input_tokens}", "dim")),
            Part(1, line(f"answers {found.asked_tokens}", "dim")),
            Part(2, line(f"seed {found.seed}", "dim")),
            *cut,
        ],
        columns,
    )
    counts = keep(
        [
            Part(0, (Span(f" {asked.sent:,}", "bold"), Span(" sent"))),
            Part(0, (Span(f"{asked.ok:,}", "bold"), Span(" ok"))),
            Part(0, line(f"{asked.errors:,} errors", "bad" if asked.errors else "")),
            Part(1, line(f"{asked.warmup:,} warm-up") if asked.warmup else BLANK),
            Part(1, line(f"{asked.interrupted:,} cut") if asked.interrupted else BLANK),
            Part(2, line(f"window {found.window_s:.1f} s", "dim")),
        ],
        columns,
    )
    rates = keep(
        [
            Part(0, (Span(f" {short(found.output_tokens_per_s)}", "bold"), Span(" tok/s"))),
            Part(0, line(f"{found.requests_per_s:.2f} requests/s")),
            Part(1, line(f"a client sees {short(found.interactivity)} tok/s")),
        ],
        columns,
    )
    slo = found.goodput.slo if found.goodput is not None else {}
    return [
        what,
        counts,
        *(line(f"   {number:,} x {clean(kind)}", "bad") for kind, number in found.errors.items()),
        rates,
        *latency_table(found.latency, slo, columns),
        *_good(found),
        *_believe(found, columns),
        *(line(f" ! {clean(done.fault)}: {clean(done.outcome)}", "warn") for done in found.faults),
    ]


def _good(found: Result) -> list[Line]:
    good = found.goodput
    if good is None:
        return []
    share = percent(100 * good.fraction) if good.fraction is not None else UNAVAILABLE
    interval = (
        f" ({100 * good.low:.0f} to {100 * good.high:.0f}% at 95%)" if good.low is not None and good.high is not None else ""
    )
    rate = f"{interval}, {good.requests_per_s:.2f} requests/s met the SLO; errors did not"
    return [(Span(" goodput "), Span(share, "good" if good.fraction == 1 else "warn"), Span(rate, "dim"))]


def _believe(found: Result, columns: int) -> list[Line]:
    """The generator's honesty, and the server's own count."""
    made = found.generator
    lines = honesty(made.why, made.lag_ms_p99, made.late_ms_p99, made.cpu_share, columns)
    server = found.server
    if server is not None:
        beyond = _beyond(server.ttft_ms, found.latency)
        others = server.requests - found.requests.sent
        parts = [
            Part(0, line(f"   server: {server.requests:,} requests, {server.output_tokens:,} tokens", "dim")),
            Part(1, line(f"TTFT mean {milliseconds(server.ttft_ms)} ms{beyond}", "dim")),
            Part(0, line(f"{others:,} of others", "warn") if others > 0 else BLANK),
        ]
        lines.append(keep(parts, columns))
    return lines


def _beyond(server: float | None, latency: Mapping[str, Latency]) -> str:
    """How much more of it the clients saw: the way through HTTP."""
    seen = latency.get("ttft")
    return "" if server is None or seen is None else f" (clients {seen.mean - server:+.1f})"


def _steps(found: Steps, columns: int) -> list[Line]:
    knee = UNAVAILABLE if found.knee is None else f"{found.knee} at once"
    verdict: Line = (Span(" knee "), Span(knee, "bold"), Span("  beyond it more at once buys little", "dim"))
    cut = [line(" INTERRUPTED", "warn")] if found.interrupted else []
    return [*(crop(each, columns) for each in step_lines(found.steps, found.knee)), verdict, *cut]


def _sweep(found: Sweep, columns: int) -> list[Line]:
    from runtime.stress.sweep_table import ending, letters, sweep_plot

    names = letters(found)
    lines: list[Line] = []
    for trial in found.trials:
        lead = (Span(f" {names[trial.layout]} ", "accent"), Span(trial.layout, "bold"))
        if trial.why:
            lines += [(*lead, Span("  not measured", "warn")), *_wrapped(trial.why, columns, "warn")]
        else:
            lines += [(*lead, Span(f"  changed to in {trial.pause_s or 0:.1f} s", "dim"))]
            lines += [crop(each, columns) for each in step_lines(trial.steps, trial.knee)]
    plot = sweep_plot(found, max(20, min(100, columns - 10)), _PLOT_ROWS)
    lines += [line(f" {row}"[:columns], "graph") for row in plot]
    lines += _wrapped(ending(found), columns, "bad" if found.unrestored else "good")
    return lines


def _files(found: Found, state: LoadState, columns: int) -> list[Line]:
    lines: list[Line] = []
    if isinstance(found, Result):
        for path in found.profiles:
            lines.append(_file("profile", path, columns))
        if found.unrecorded:
            lines += _wrapped(f"not recorded: {found.unrecorded}", columns, "warn")
    for path in state.files:
        lines.append(_file({".json": "JSON", ".html": "report"}.get(PurePath(path).suffix, "file"), path, columns))
    return lines


def _file(what: str, path: str, columns: int) -> Line:
    """Of a long path the end stays."""
    room = max(4, columns - 10)
    shown = clean(path)
    return (Span(f" {what:<8}", "dim"), Span(shown if len(shown) <= room else "…" + shown[-room + 1 :]))


def _wrapped(words: str, columns: int, role: str) -> list[Line]:
    return [line(f"   {row}", role) for row in textwrap.wrap(clean(words), max(1, columns - 4))] or [BLANK]
