"""A plan in words and as one object; a validation likewise. Plain text: no colour, and no terminal needed."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from math import inf, isfinite
from typing import Any

from runtime.planner.calibration import Calibration
from runtime.planner.hardware import GIB
from runtime.planner.launch import unserved
from runtime.planner.parameters import find_format
from runtime.planner.scatter import scatter
from runtime.planner.search import Choice, Entry, Plan, UseCase, by_use_case, what_if, worth
from runtime.planner.serving import Prediction, amdahl
from runtime.planner.sharding import PRESETS, preset
from runtime.planner.validation import Validation

ROWS = 24  # layouts of the table; --json has them all

_COLUMNS = (
    "layout",
    "fit",
    "weights",
    "kv",
    "batch",
    "ttft",
    "tpot",
    "e2e/tok",
    "tok/s",
    "/GPU",
    "/user",
    "comm/tok",
    "bubble",
    "limit",
)
_UNITS = ("", "", "GiB", "GiB", "", "ms", "ms", "ms", "", "", "", "KB", "", "")


_FIRST_LEFT_OUT = ("comm/tok", "kv", "weights", "e2e/tok", "bubble", "tok/s", "fit", "limit", "batch", "/GPU", "/user", "ttft")
_LEGEND = {
    "tpot": "(E2E - TTFT) / (OSL - 1), /user its inverse",
    "e2e/tok": "E2E / OSL",
    "comm/tok": "sent by a GPU for a token",
    "limit": "most of a decode step, or prompts: most of a TPOT",
}


def plan_lines(plan: Plan, columns: int | None = None) -> list[str]:
    """The table, the plot, the choice, what would change it, and the layouts that cannot be, with their reasons.

    `columns`: of the terminal; None: lines as long as they are.
    """
    running = sorted(
        (e for e in plan.entries if e.runs), key=lambda e: _merit(plan.use_case, _best(plan.use_case, e)), reverse=True
    )
    lines = [_heading(plan), ""]
    if running:
        rows = [_COLUMNS, _UNITS, *(_row(entry, _best(plan.use_case, entry)) for entry in running[:ROWS])]
        table = _fitting(rows, columns)
        shown = table[0].split()
        legend = "; ".join(f"{name}: {words}" for name, words in _LEGEND.items() if name in shown)
        if len(running) > ROWS:
            table.append(f"... and {counted(len(running) - ROWS, 'more layout')} (--json has them all)")
        lines += [*table, legend, "", *_plot(plan, columns)]
    out = [entry for entry in plan.entries if not entry.runs]
    if out:
        lines += ["", f"{counted(len(out), 'layout')} {'is' if len(out) == 1 else 'are'} out:", *_reasons(out)]
    notes: dict[str, list[str]] = {}
    for entry in running[:ROWS]:
        for note in entry.warnings:
            notes.setdefault(note, []).append(str(entry.sharding))
    said = [*_of_all(plan), *(f"{note}: {', '.join(names)}" for note, names in notes.items())]
    if said:
        lines += ["", "worth knowing:", *(f"  {note}" for note in said)]
    lines += _counts(plan)
    if plan.choice is not None:
        point = plan.choice.point
        lines += ["", f"take {point.sharding} at {requests(point.batch)}: {plan.choice.reason}"]
        lines += [_split(point)]
        lines += [_changed(plan, words, found.point if found else None) for words, found in what_if(plan)]
        lines += ["", "for other use cases:", *(f"  {words}" for words in _others(plan))]
    return _all_wrapped(lines, columns)


def _all_wrapped(lines: Sequence[str], columns: int | None) -> list[str]:
    return list(lines) if columns is None else [part for each in lines for part in _wrapped(each, columns)]


def counted(count: float, noun: str) -> str:
    """`1 layout`, `2 layouts`."""
    return f"{count:,.0f} {noun}{'' if count == 1 else 's'}"


def requests(batch: float) -> str:
    """In flight: few of them are a mean, as at a low rate."""
    return counted(batch, "request") if batch >= 10 or batch == int(batch) else f"{max(batch, 0.01):.2g} requests"


def _of_all(plan: Plan) -> list[str]:
    """What is to be known of every layout."""
    request, found = plan.request, []
    form, gpu = find_format(request.weights), request.cluster.gpu
    if request.engine == "shardscope" and request.source and (refused := unserved(request.source, form)):
        found.append(f"{refused}; --engine vllm, sglang or trtllm plans for another")
    if form.name == "bf16" and not gpu.bfloat16:
        found.append(f"{gpu.name} has no bfloat16: take float16, which is as fast as is said here")
    elif form.compute not in gpu.flops:
        found.append(
            f"{gpu.name} multiplies no {form.compute}: {form.name} weights are expanded as they are read, and save memory"
        )
    return found


def _wrapped(text: str, columns: int) -> list[str]:
    """Tables and plots fit already; sentences go on below, indented by two more."""
    if len(text) <= columns or "|" in text[:12]:
        return [text]
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.wrap(text, max(16, columns), subsequent_indent=indent, break_on_hyphens=False) or [""]


def _fitting(rows: Sequence[Sequence[str]], columns: int | None) -> list[str]:
    """The table, without the columns that matter least where it would be too wide."""
    kept = list(range(len(rows[0])))
    table = _table(rows)
    for name in _FIRST_LEFT_OUT:
        if columns is None or max(map(len, table)) <= columns:
            break
        kept.remove(rows[0].index(name))
        table = _table([[row[i] for i in kept] for row in rows])
    return table


def _heading(plan: Plan) -> str:
    request, calibration = plan.request, plan.request.calibration
    band = f"+-{calibration.band('tpot_ms'):.0%}"
    state = f"calibrated on {calibration.machine} ({band})" if calibration.calibrated else f"uncalibrated ({band})"
    load = "up to what fits" if request.concurrency is None else f"{request.concurrency} requests"
    load = load if request.rate is None else f"{request.rate:g} requests/s"
    model = f"{request.model.name} ({request.model.parameters / 1e9:,.2f}B) {request.weights}"
    nodes = f" on {request.cluster.nodes} nodes" if request.cluster.nodes > 1 else ""
    gpus = f"{request.cluster.gpus} x {request.cluster.gpu.name}{nodes}"
    return f"{model} on {gpus}, {request.engine}, {request.isl}/{request.osl} tokens, {load}, for {plan.use_case.name}: {state}"


def _best(use_case: UseCase, entry: Entry) -> Prediction:
    within = [point for point in entry.points if use_case.met(point)]
    return max(within, key=use_case.merit) if within else min(entry.points, key=use_case.distance)


def _merit(use_case: UseCase, point: Prediction) -> tuple[bool, float, float]:
    """As the choice is made: it stands first."""
    return (True, *worth(point, use_case)) if use_case.met(point) else (False, -use_case.distance(point), point.tokens_s)


def _row(entry: Entry, point: Prediction) -> tuple[str, ...]:
    return (
        str(entry.sharding),
        entry.verdict.word,
        f"{point.memory.weights / GIB:.1f}",
        f"{point.memory.kv / GIB:.1f}",
        requests(point.batch).partition(" ")[0],
        f"{point.ttft * 1e3:,.0f}" if isfinite(point.ttft) else "never",
        f"{point.tpot * 1e3:.1f}",
        f"{point.tpot_e2e * 1e3:.1f}" if isfinite(point.tpot_e2e) else "never",
        f"{point.tokens_s:,.0f}",
        f"{point.tokens_s_gpu:,.0f}",
        f"{point.tokens_s_user:.1f}",
        f"{sum(point.bytes_per_token.values()) / 1e3:,.0f}",
        f"{point.bubble:.0%}" if point.bubble else "-",
        "{} {:.0%}".format(*point.limiting),
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = {i for i, name in enumerate(rows[0]) if name in ("layout", "fit", "limit", "group", "metric")}
    cells = (
        (f"{c:<{w}}" if i in left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))) for row in rows
    )
    return ["  ".join(row).rstrip() for row in cells]


def _plot(plan: Plan, columns: int | None) -> list[str]:
    marks = [(p.tokens_s_user, p.tokens_s_gpu, ".") for entry in plan.entries for p in entry.points]
    marks += [(p.tokens_s_user, p.tokens_s_gpu, "o") for p in plan.front]
    if plan.choice is not None:
        marks.append((plan.choice.point.tokens_s_user, plan.choice.point.tokens_s_gpu, "@"))
    gutter = len(f"{max((y for _, y, _ in marks), default=0):,.0f}") + 2
    width = 72 if columns is None else max(16, min(72, columns - gutter))
    return scatter(marks, "tok/s/user", "tok/s/GPU   o: nothing beats it in both   @: the choice", width)


def nearest_to_fit(plan: Plan) -> str:
    """Of a plan in which nothing runs, the layout that breaks no rule and lacks the least, and what would do."""
    return _reason(min(plan.entries, key=lambda e: (bool(e.broken), e.memory.weights if e.memory else 0.0)))


def _reason(entry: Entry) -> str:
    change = f"; would fit: {entry.verdict.change}" if entry.verdict.change else ""
    return f"{entry.sharding}: {entry.verdict.reason}{change}"


def _reasons(out: Sequence[Entry]) -> list[str]:
    """Each layout with its first reason; layouts that share one share a line when they are many."""
    if len(out) <= ROWS:
        return [f"  {_reason(entry)}" for entry in out]
    alike = Counter(entry.verdict.reason.partition(":")[0] if entry.broken else "too little memory" for entry in out)
    return [f"  {count} x {reason}" for reason, count in alike.most_common(ROWS)]


def _split(point: Prediction) -> str:
    """What a TPOT is made of, where a step's time goes, and what more TP could gain."""
    parts = [f"{name.replace('_', '-')} {ms:.2f}" for name, ms in ((n, 1e3 * s) for n, s in point.step._asdict().items()) if ms]
    at, bound = amdahl(point)
    tp = f"; tp {point.sharding.tp} is {at:.1f} times as fast as 1, no tp more than {bound:.1f}" if isfinite(bound) else ""
    step, tpot, prompts = point.step.total * 1e3, point.tpot * 1e3, point.prompts * 1e3
    turns = f" + {tpot - prompts - step:.2f} for a turn of the slowest stage" if tpot - prompts - step > 0.005 * tpot else ""
    made = f"{tpot:.2f} ms = a step's {step:.2f}{turns} + {prompts:.2f} for prompts that begin meanwhile"
    return f"  a step of it, ms: {', '.join(parts)}; TPOT {made}{tp}"


def _others(plan: Plan) -> list[str]:
    found = [(name, choice) for name, choice in by_use_case(plan).items() if name != plan.use_case.name and choice is not None]
    return [f"{name}: {choice.point.sharding} at {requests(choice.point.batch)}: {choice.reason}" for name, choice in found]


def _counts(plan: Plan) -> list[str]:
    model, gpus = plan.request.model, plan.request.cluster.gpus
    if model.name != "gpt-1.8t-moe" or gpus != 64:
        return []
    return ["", *(f"{len(preset(name, model, gpus))} layouts by {words}" for name, words in PRESETS.items())]


def _changed(plan: Plan, words: str, point: Prediction | None) -> str:
    if point is None or plan.choice is None:
        return f"  with {words}: nothing fits"
    if point == plan.choice.point and words.endswith(("one more GPU", "one more rank")):
        return f"  with {words}: the same; no layout of {plan.request.cluster.gpus + 1} does better, so one stays idle"
    change = point.tokens_s / plan.choice.point.tokens_s - 1
    same = " too" if point.sharding == plan.choice.point.sharding else ""
    return (
        f"  with {words}: {point.sharding}{same}, {point.tokens_s:,.0f} tok/s ({change:+.0%}), {point.tokens_s_user:.0f} a user"
    )


def plan_object(plan: Plan) -> dict[str, Any]:
    """JSON-ready: {request, layouts: [{layout, verdict, reason, memory, points}], front, choice, use_cases, what_if}.

    Times in ms, sizes in bytes, rates in tokens a second; `null` is without end or unknown. `band`: relative error to expect,
    nine times of ten. `use_cases`: the choice for every preset. `tpot_ms`: (E2E - TTFT) / (OSL - 1), of which `prompts_ms` are
    for prompts that begin meanwhile; `tpot_e2e_ms`: E2E / OSL.
    """
    request, known = plan.request, plan.request.calibration
    band = known.band("tpot_ms")
    return {
        "request": {
            "model": request.model.name,
            "parameters": request.model.parameters,
            "active_parameters": request.model.active_parameters,
            "gpu": request.cluster.gpu.name,
            "gpus": request.cluster.gpus,
            "nodes": request.cluster.nodes,
            "isl": request.isl,
            "osl": request.osl,
            "concurrency": request.concurrency,
            "rate": request.rate,
            "weights": request.weights,
            "engine": request.engine,
            "use_case": plan.use_case.name,
            "calibrated": request.calibration.calibrated,
            "band": band,
        },
        "layouts": [_entry_object(entry, known) for entry in plan.entries],
        "front": [_point_object(point, known) for point in plan.front],
        "choice": _choice_object(plan.choice, known),
        "use_cases": {name: _choice_object(choice, known) for name, choice in by_use_case(plan).items()},
        "what_if": [
            {"change": words, **({} if found is None else _point_object(found.point, known)), "fits": found is not None}
            for words, found in (what_if(plan) if plan.choice else [])
        ],
    }


def _choice_object(choice: Choice | None, known: Calibration) -> dict[str, Any] | None:
    return None if choice is None else {**_point_object(choice.point, known), "reason": choice.reason, "met": choice.met}


def _entry_object(entry: Entry, known: Calibration) -> dict[str, Any]:
    layout = entry.sharding.layout
    return {
        "layout": str(entry.sharding),
        "degrees": asdict(entry.sharding),
        "deployable": layout is not None,
        "broken_rules": entry.broken,
        "verdict": entry.verdict.word,
        "reason": entry.verdict.reason,
        "change": entry.verdict.change or None,
        "warnings": entry.warnings,
        "memory": entry.memory.parts() if entry.memory else None,
        "kv_tokens": entry.memory.kv_tokens if entry.memory else None,
        "largest_batch": entry.largest_batch,
        "points": [_point_object(point, known) for point in entry.points],
    }


def _point_object(point: Prediction, known: Calibration) -> dict[str, Any]:
    at, bound = amdahl(point)
    return {
        "layout": str(point.sharding),
        "batch": point.batch,
        "waiting": _finite(point.waiting),
        "ttft_ms": _finite(point.ttft * 1e3),
        "tpot_ms": point.tpot * 1e3,
        "tpot_e2e_ms": _finite(point.tpot_e2e * 1e3),
        "band": {metric: known.band(metric) for metric in ("tpot_ms", "ttft_ms")},
        "tokens_s": point.tokens_s,
        "tokens_s_gpu": point.tokens_s_gpu,
        "tokens_s_user": point.tokens_s_user,
        "bubble": point.bubble,
        "limit": point.limit,
        "prompts_ms": point.prompts * 1e3,
        "step_ms": {name: seconds * 1e3 for name, seconds in point.step._asdict().items()},
        "prompt_ms": {name: seconds * 1e3 for name, seconds in point.prompt._asdict().items()},
        "bytes_per_token": point.bytes_per_token,
        "amdahl": {"speedup": at, "bound": _finite(bound)},
    }


def _finite(value: float) -> float | None:
    return value if isfinite(value) and value != inf else None


def validation_lines(found: Validation, columns: int | None = None) -> list[str]:
    rows = [("group", "metric", "rows", "MAPE", "median", "bias", "Spearman")]
    rows += [
        (s.group, s.metric, f"{s.rows}", f"{s.mape:.1%}", f"{s.median:.1%}", f"{s.bias:+.1%}", f"{s.spearman:.3f}")
        for s in found.scores
    ]
    lines = _table(rows)
    if found.regrets:
        lines += ["", "layout regret: tokens/s/GPU lost by taking the layout predicted best"]
        lines += [f"  {r.group}: {r.mean:.1%} in the mean, {r.worst:.1%} at worst, of {r.choices} choices" for r in found.regrets]
    if found.skipped:
        lines += ["", f"{len(found.skipped)} rows not predicted:"]
        lines += [f"  {count} x {reason}" for reason, count in Counter(found.skipped.values()).most_common(12)]
    return _all_wrapped(lines, columns)


def validation_object(found: Validation) -> dict[str, Any]:
    """JSON-ready: {scores, regrets, skipped: {line: why}}; errors are relative."""
    return {
        "scores": [asdict(score) for score in found.scores],
        "regrets": [asdict(regret) for regret in found.regrets],
        "skipped": {str(line): why for line, why in found.skipped.items()},
    }
