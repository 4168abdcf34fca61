"""Below the ranks: what the engine does, and what happened. They take the rows that the ranks leave."""

from __future__ import annotations

from telemetry.snapshot import DeploymentView, Snapshot
from tui.view.bars import Share, gauge, history
from tui.view.events import event_panel
from tui.view.figures import UNAVAILABLE, milliseconds, percent, short, whole
from tui.view.line import BLANK, Line, Part, Span, fit, keep, line, rule

SMALLEST = 5  # rows in which the panels still say something
COMFORTABLE = 9  # rows for the engine's figures and a few events
_BESIDE = 110  # columns from which the events stand beside the engine
_TALLEST = 10  # rows of the history
_HISTORY = 61  # columns that a minute needs at one a second


def panels(deployment: DeploymentView, snapshot: Snapshot, columns: int, rows: int) -> list[Line]:
    """Exactly `rows` lines, or none when there is no room."""
    if rows < SMALLEST:
        return []
    if columns >= _BESIDE:
        left = columns * 3 // 5
        engine = _high(engine_panel(deployment, snapshot, left, rows), rows)
        events = _high(event_panel(deployment, snapshot, columns - left - 1, rows), rows)
        return [(*fit(a, left), Span(" "), *fit(b, columns - left - 1)) for a, b in zip(engine, events, strict=True)]
    wanted = event_panel(deployment, snapshot, columns, rows)
    below = max(0, min(len(wanted), rows // 2, rows - SMALLEST))
    engine = engine_panel(deployment, snapshot, columns, rows - (below if below >= 2 else 0))
    return _high(engine + (event_panel(deployment, snapshot, columns, rows - len(engine)) if below >= 2 else []), rows)


def _high(lines: list[Line], rows: int) -> list[Line]:
    return (lines + [BLANK] * rows)[:rows]


def engine_panel(deployment: DeploymentView, snapshot: Snapshot, columns: int, rows: int) -> list[Line]:
    """A title, three lines of figures, and the output rate in what is left."""
    engine = deployment.engine
    queue = keep(
        [
            Part(0, (Span(f" {whole(engine.running)}", "bold"), Span(" running"))),
            Part(0, (Span(f"{whole(engine.waiting)}", "bold"), Span(" waiting"))),
            Part(1, line(f"{whole(engine.preemptions)} preempted", "warn" if engine.preemptions else "")),
            Part(2, line(f"{whole(engine.finished)} finished")),
            Part(3, line(f"{whole(engine.aborted)} aborted", "warn" if engine.aborted else "")),
        ],
        columns,
    )
    window = f"{snapshot.window_s:.0f} s"
    latency = keep(
        [
            Part(0, line(f" TTFT p50 {milliseconds(engine.ttft_ms_p50)} p99 {milliseconds(engine.ttft_ms_p99)} ms")),
            Part(1, line(f"ITL p50 {milliseconds(engine.itl_ms_p50)} ms")),
            Part(2, line(f"prefix hits {_hits(engine.prefix_hit_rate)}")),
            Part(3, line(f"over {window}", "dim")),
        ],
        columns,
    )
    peak = max(engine.tokens_history, default=0.0)
    rate = keep(
        [
            Part(0, (Span(f" {short(engine.tokens_per_s)}", "bold"), Span(" tok/s out"))),
            Part(1, line(f"{short(engine.prompt_tokens_per_s)} in")),
            Part(2, line(f"60 s up to {short(peak)}", "dim")),
        ],
        columns,
    )
    title = rule(line("engine", "title"), BLANK, columns)
    high = min(_TALLEST, rows - 5)
    if high < 1:
        return [title, queue, _kv(deployment, columns), latency, rate][:rows]
    if high == 1:  # the rate and its picture share a line
        room = min(_HISTORY, columns - sum(len(span.text) for span in rate) - 3)
        drawn = history(engine.tokens_history, room, 1, peak, _second(snapshot))
        return [title, queue, _kv(deployment, columns), latency, (*rate, Span("  "), Span(drawn[0], "graph"))]
    drawn = history(engine.tokens_history, min(_HISTORY, columns - 2), high, peak, _second(snapshot))
    return [title, queue, _kv(deployment, columns), latency, rate, *(line(f" {row}", "graph") for row in drawn)]


def _kv(deployment: DeploymentView, columns: int) -> Line:
    engine = deployment.engine
    if not engine.kv_total:
        return line(f" KV {UNAVAILABLE}")
    full = engine.kv_used >= 0.95 * engine.kv_total
    share = percent(100 * engine.kv_used / engine.kv_total) + ("!" if full else "")
    text = keep(
        [
            Part(0, line(f"{share} used", "warn" if full else "bold")),
            Part(2, line(f"{percent(100 * engine.kv_cached / engine.kv_total)} reusable")),
            Part(3, line(f"of {whole(engine.kv_total)} blocks")),
        ],
        max(0, columns - 16),
    )
    room = min(_HISTORY - 4, columns - 6 - sum(len(span.text) for span in text))
    bar = gauge([Share(engine.kv_used, "█", "kv"), Share(engine.kv_cached, "▒", "other")], engine.kv_total, max(4, room))
    return (Span(" KV "), *bar, Span(" "), *text)


def _hits(rate: float | None) -> str:
    return UNAVAILABLE if rate is None else percent(100 * rate)


def _second(snapshot: Snapshot) -> int:
    return snapshot.time_ns // 1_000_000_000
