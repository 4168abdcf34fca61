"""A plan in words and as one object; a validation likewise. Plain text: no colour, no terminal needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from math import inf, isfinite
from typing import Any

from runtime.planner.calibration import Calibration
from runtime.planner.hardware import GIB
from runtime.planner.scatter import scatter
from runtime.planner.search import Choice, Entry, Plan, UseCase, by_use_case, what_if
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


def plan_lines(plan: Plan) -> list[str]:
    """The table, the plot, the choice, what would change it, and the layouts that cannot be, with their reasons."""
    running = sorted((e for e in plan.entries if e.runs), key=lambda e: -_merit(plan.use_case, _best(plan.use_case, e)))
    lines = [_heading(plan), ""]
    if running:
        lines += _table([_COLUMNS, _UNITS, *(_row(entry, _best(plan.use_case, entry)) for entry in running[:ROWS])])
        if len(running) > ROWS:
            lines.append(f"... and {len(running) - ROWS} more layouts (--json has them all)")
        lines += ["", *_plot(plan)]
    out = [entry for entry in plan.entries if not entry.runs]
    if out:
        lines += ["", f"{len(out)} layouts are out:", *_reasons(out)]
    notes: dict[str, list[str]] = {}
    for entry in running[:ROWS]:
        for note in entry.warnings:
            notes.setdefault(note, []).append(str(entry.sharding))
    if notes:
        lines += ["", "worth knowing:", *(f"  {note}: {', '.join(names)}" for note, names in notes.items())]
    lines += _counts(plan)
    if plan.choice is not None:
        lines += ["", f"take {plan.choice.point.sharding} at {plan.choice.point.batch:,.0f} requests: {plan.choice.reason}"]
        lines += [_split(plan.choice.point)]
        lines += [_changed(plan, words, found.point if found else None) for words, found in what_if(plan)]
        lines += ["", "for other use cases:", *(f"  {words}" for words in _others(plan))]
    return lines


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


def _merit(use_case: UseCase, point: Prediction) -> float:
    return use_case.merit(point) if use_case.met(point) else -use_case.distance(point)


def _row(entry: Entry, point: Prediction) -> tuple[str, ...]:
    return (
        str(entry.sharding),
        entry.verdict.word,
        f"{point.memory.weights / GIB:.1f}",
        f"{point.memory.kv / GIB:.1f}",
        f"{point.batch:,.0f}",
        f"{point.ttft * 1e3:,.0f}",
        f"{point.tpot * 1e3:.1f}",
        f"{point.tpot_e2e * 1e3:.1f}",
        f"{point.tokens_s:,.0f}",
        f"{point.tokens_s_gpu:,.0f}",
        f"{point.tokens_s_user:.1f}",
        f"{sum(point.bytes_per_token.values()) / 1e3:,.0f}",
        f"{point.bubble:.0%}" if point.bubble else "-",
        f"{point.limit.replace('_', '-')} {getattr(point.step, point.limit) / point.step.total:.0%}",
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = {0, 1, len(widths) - 1}
    cells = (
        (f"{c:<{w}}" if i in left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))) for row in rows
    )
    return ["  ".join(row).rstrip() for row in cells]


def _plot(plan: Plan) -> list[str]:
    marks = [(p.tokens_s_user, p.tokens_s_gpu, ".") for entry in plan.entries for p in entry.points]
    marks += [(p.tokens_s_user, p.tokens_s_gpu, "o") for p in plan.front]
    if plan.choice is not None:
        marks.append((plan.choice.point.tokens_s_user, plan.choice.point.tokens_s_gpu, "@"))
    return scatter(marks, "tok/s/user", "tok/s/GPU   o: nothing beats it in both   @: the choice")


def _reasons(out: Sequence[Entry]) -> list[str]:
    """Each layout with its first reason; layouts that share one share a line when they are many."""
    if len(out) <= ROWS:
        return [
            f"  {e.sharding}: {e.verdict.reason}{f'; would fit: {e.verdict.change}' if e.verdict.change else ''}" for e in out
        ]
    counted = Counter(entry.verdict.reason.partition(":")[0] if entry.broken else "too little memory" for entry in out)
    return [f"  {count} x {reason}" for reason, count in counted.most_common(ROWS)]


def _split(point: Prediction) -> str:
    """Where a step's time goes, and what more TP could gain."""
    parts = [f"{name.replace('_', '-')} {ms:.2f}" for name, ms in ((n, 1e3 * s) for n, s in point.step._asdict().items()) if ms]
    at, bound = amdahl(point)
    tp = f"; tp {point.sharding.tp} is {at:.1f} times as fast as 1, no tp more than {bound:.1f}" if isfinite(bound) else ""
    return f"  a step of it, ms: {', '.join(parts)}{tp}"


def _others(plan: Plan) -> list[str]:
    found = [(name, choice) for name, choice in by_use_case(plan).items() if name != plan.use_case.name and choice is not None]
    return [f"{name}: {choice.point.sharding} at {choice.point.batch:,.0f} requests: {choice.reason}" for name, choice in found]


def _counts(plan: Plan) -> list[str]:
    model, gpus = plan.request.model, plan.request.cluster.gpus
    if model.name != "gpt-1.8t-moe" or gpus != 64:
        return []
    return ["", *(f"{len(preset(name, model, gpus))} layouts by {words}" for name, words in PRESETS.items())]


def _changed(plan: Plan, words: str, point: Prediction | None) -> str:
    if point is None or plan.choice is None:
        return f"  with {words}: nothing fits"
    change = point.tokens_s / plan.choice.point.tokens_s - 1
    same = " too" if point.sharding == plan.choice.point.sharding else ""
    return (
        f"  with {words}: {point.sharding}{same}, {point.tokens_s:,.0f} tok/s ({change:+.0%}), {point.tokens_s_user:.0f} a user"
    )


def plan_object(plan: Plan) -> dict[str, Any]:
    """JSON-ready: {request, layouts: [{layout, verdict, reason, memory, points}], front, choice, use_cases, what_if}.

    Times in ms, sizes in bytes, rates in tokens a second; `null` is without end or unknown. `band`: relative error to expect,
    nine times of ten. `use_cases`: the choice for every preset.
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
        "step_ms": {name: seconds * 1e3 for name, seconds in point.step._asdict().items()},
        "prompt_ms": {name: seconds * 1e3 for name, seconds in point.prompt._asdict().items()},
        "bytes_per_token": point.bytes_per_token,
        "amdahl": {"speedup": at, "bound": _finite(bound)},
    }


def _finite(value: float) -> float | None:
    return value if isfinite(value) and value != inf else None


def validation_lines(found: Validation) -> list[str]:
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
    return lines


def validation_object(found: Validation) -> dict[str, Any]:
    """JSON-ready: {scores, regrets, skipped: {line: why}}; errors are relative."""
    return {
        "scores": [asdict(score) for score in found.scores],
        "regrets": [asdict(regret) for regret in found.regrets],
        "skipped": {str(line): why for line, why in found.skipped.items()},
    }
