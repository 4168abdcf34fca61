"""A result as one HTML page that needs nothing else: tables, charts, and the JSON to compute from."""

from __future__ import annotations

import time
from collections.abc import Callable
from html import escape

import msgspec

from runtime.stress.chart import Line, Point, line_chart
from runtime.stress.result import Found, Result, Second, Steps, Sweep, runs_of
from runtime.stress.sweep_table import ending, sweep_rows
from runtime.stress.table import as_text, knee_line, step_header, step_row

STYLE = """
body{font:14px/1.45 system-ui,sans-serif;max-width:1340px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
pre{background:#f4f4f4;padding:.8em;overflow-x:auto} .charts{display:flex;flex-wrap:wrap;gap:1em}
figure{margin:0;flex:1 1 560px} figcaption{font-weight:600} svg{width:100%;font:11px system-ui,sans-serif}
polyline,line{fill:none;stroke-width:1.6} .grid{stroke:#ddd;stroke-width:1} .mark{stroke:#999;stroke-dasharray:2 2}
.word{fill:#666} .bad{color:#b00020;font-weight:600}
"""


def as_html(found: Found) -> str:
    runs = runs_of(found)
    name = runs[0].name if runs else "nothing"
    body = [f"<h1>Stress of {escape(name)}</h1>"]
    if runs:
        body.append(f"<p>{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(runs[0].started))}, {escape(runs[0].url)}</p>")
    if isinstance(found, Steps):
        rows = "\n".join((step_header(), *(step_row(step) for step in runs), knee_line(found)))
        body.append(f"<h2>Steps of concurrency</h2><pre>{escape(rows)}</pre>")
        body.append(f'<div class="charts">{_step_charts(found)}</div>')
    if isinstance(found, Sweep):
        rows = "\n".join((*sweep_rows(found), ending(found)))
        body.append(f"<h2>Layouts and concurrency</h2><pre>{escape(rows)}</pre>")
        body.append(f'<div class="charts">{_sweep_charts(found)}</div>')
        for trial in found.trials:
            body.append(f"<h2>Layout {escape(trial.layout)}</h2>")
            body.extend([_section(run) for run in trial.steps] or [f'<p class="bad">not measured: {escape(trial.why)}</p>'])
    else:
        body.extend(_section(run) for run in runs)
    data = escape(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
    body.append(f"<details><summary>JSON</summary><pre>{data}</pre></details>")
    title = f"stress {escape(name)}"
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>'
    return f"{head}<body>{''.join(body)}</body></html>\n"


def _section(run: Result) -> str:
    warnings = []
    if run.interrupted:
        warnings.append("interrupted: only what was measured until then")
    if run.generator.behind:
        warnings.append(f"the generator fell behind: {run.generator.why}")
    told = "".join(f'<p class="bad">{escape(words)}</p>' for words in warnings)
    return f'<h2>{escape(run.load)}</h2>{told}<pre>{escape(as_text(run))}</pre><div class="charts">{_charts(run)}</div>'


def _charts(run: Result) -> str:
    marks = [(done.at_s, done.fault.split(" ", 1)[-1]) for done in run.faults if done.pid is not None]
    if run.warmup_s:
        marks.append((run.warmup_s, "warm-up ends"))

    def over_time(*named: tuple[str, Callable[[Second], float | None]]) -> list[Line]:
        return [Line(name, [_point(second, value(second)) for second in run.timeline]) for name, value in named]

    ttft = over_time(("TTFT p50", lambda s: s.ttft_ms_p50), ("TTFT p99", lambda s: s.ttft_ms_p99))
    tpot = over_time(("TPOT p50", lambda s: s.tpot_ms_p50))
    tokens = over_time(("output tokens/s", lambda s: s.tokens))
    requests = over_time(
        ("sent/s", lambda s: s.sent),
        ("done/s", lambda s: s.done),
        ("errors/s", lambda s: s.errors),
        ("open", lambda s: s.in_flight),
    )
    spread = [
        Line(name.upper(), [(value, 5.0 * step) for step, value in enumerate(latency.quantiles)])
        for name, latency in run.latency.items()
        if name in ("ttft", "e2e")
    ]
    return "".join(
        (
            line_chart("Time to first token", "s", "ms", ttft, marks),
            line_chart("Time per output token", "s", "ms", tpot, marks),
            line_chart("Output", "s", "tokens/s", tokens, marks),
            line_chart("Requests", "s", "requests", requests, marks),
            line_chart("Share of answers within", "ms", "%", spread),
        )
    )


def _point(second: Second, value: float | None) -> Point | None:
    return None if value is None else (float(second.at_s), float(value))


def _sweep_charts(found: Sweep) -> str:
    measured = [trial for trial in found.trials if trial.steps]
    frontiers = []
    for trial in measured:
        seen = [(step.interactivity, step) for step in trial.steps if step.interactivity is not None]
        points = [(x, step.output_tokens_per_s) for x, step in seen]
        frontiers.append(Line(trial.layout, points, [str(step.concurrency) for _, step in seen]))
    at_once = [
        Line(trial.layout, [(float(step.concurrency or 0), step.output_tokens_per_s) for step in trial.steps])
        for trial in measured
    ]
    return line_chart("Throughput against interactivity", "tokens/s that a client sees", "tokens/s", frontiers) + line_chart(
        "Throughput", "at once", "tokens/s", at_once
    )


def _step_charts(found: Steps) -> str:
    at_once = [(float(step.concurrency or 0), step) for step in found.steps]
    marks = [(float(found.knee), "knee")] if found.knee is not None else []
    throughput = Line("output tokens/s", [(x, step.output_tokens_per_s) for x, step in at_once])
    seen = [(step.interactivity, step) for step in found.steps if step.interactivity is not None]
    frontier = Line(
        "concurrency", [(x, step.output_tokens_per_s) for x, step in seen], [str(step.concurrency) for _, step in seen]
    )
    e2e = Line("E2E p50", [(x, step.latency["e2e"].p50) for x, step in at_once if "e2e" in step.latency])
    return "".join(
        (
            line_chart("Throughput", "at once", "tokens/s", [throughput], marks),
            line_chart("Delay", "at once", "ms", [e2e], marks),
            line_chart("Throughput against interactivity", "tokens/s that a client sees", "tokens/s", [frontier]),
        )
    )
