"""Rows of measured service, as `published_measurements.csv` has them, read into what the planner can predict."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.planner.cost import Setup
from runtime.planner.hardware import Cluster, find_gpu
from runtime.planner.memory import cache_format, precision
from runtime.planner.models import find_model
from runtime.planner.names import PlanError, load
from runtime.planner.parameters import Scale, find_engine
from runtime.planner.serving import Hold, Workload, predict
from runtime.planner.sharding import Sharding

_CASE = ("source", "model", "gpu", "n_gpus", "tp", "pp", "ep", "dp", "precision", "isl", "osl", "concurrency")
COLUMNS = (*_CASE, "metric", "value", "unit")


@dataclass(frozen=True)
class Measurement:
    """One measured value, its deployment and its load. `metric`: "tpot_ms", "ttft_ms", "tokens_s", "tokens_s_gpu"."""

    group: str
    metric: str
    value: float
    setup: Setup
    workload: Workload
    line: int
    model: str = ""
    precision: str = ""

    def predicted(self, scale: Scale | None = None) -> float:
        setup = self.setup if scale is None else replace(self.setup, scale=scale)
        found = predict(setup, self.workload)
        answers = {"tpot_ms": found.tpot * 1e3, "ttft_ms": found.ttft * 1e3, "tokens_s": found.tokens_s}
        return answers.get(self.metric, found.tokens_s_gpu)

    @property
    def question(self) -> tuple[object, ...]:
        """What layouts compete under: everything but the layout."""
        w = self.workload
        return self.group, self.metric, self.model, self.setup.gpu.name, self.precision, w.isl, w.osl, w.concurrency, w.rate


def read_measurements(path: Path) -> tuple[list[Measurement], dict[int, str]]:
    """The rows of a CSV that can be predicted, and for every other line why not. Raises PlanError when it is no such file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
            if missing:
                raise PlanError(f"{path} lacks the columns {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
            return read_rows(rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PlanError(f"{path} cannot be read: {error}") from None


def read_rows(rows: Iterable[Mapping[str, str]]) -> tuple[list[Measurement], dict[int, str]]:
    found, skipped = [], {}
    for line, row in enumerate(rows, start=2):
        try:
            found.append(read_row(row, line))
        except PlanError as error:
            skipped[line] = str(error)
    return found, skipped


def read_row(row: Mapping[str, str], line: int) -> Measurement:
    """One row. Raises PlanError saying what of it cannot be predicted."""
    metric = _metric(row["metric"], row["unit"])
    model = find_model(row["model"])
    gpu = find_gpu(row["gpu"])
    source = row["source"]
    engine = find_engine(_engine(source))
    protocol = _protocol(row, model.name, gpu.name)
    engine = replace(engine, **{key: protocol[key] for key in ("memory_share", "compiles_prompts", "built") if key in protocol})
    gpus = int(_number(row["n_gpus"], "n_gpus"))
    sharding = _sharding(row, gpus, protocol)
    isl, osl = _number(row["isl"], "isl"), _number(row["osl"], "osl")
    if "batched" in protocol:
        engine = replace(engine, max_batched_tokens=_batched(protocol["batched"], isl, row["concurrency"]))
    # of a format with several variants, a row means the one that the model is published in
    native = row["precision"] == {"fp8-block": "fp8", "mxfp4": "fp4"}.get(model.stored_as)
    weights = protocol.get("precision") or (model.stored_as if native else row["precision"])
    form = precision(model, weights, cache_format(engine.kv, weights))
    setup = Setup(model, sharding, Cluster(gpu, gpus), form, engine)
    family = re.split(r" [(\[]", source)[0]
    group = f"{family} {'MoE' if model.experts else 'dense'}"
    workload = _workload(row["concurrency"], isl, osl, protocol)
    if protocol.get("hold"):
        workload = replace(workload, hold=_hold(protocol["hold"], workload.isl, engine.max_batched_tokens, sharding.attention_dp))
    return Measurement(group, metric, _number(row["value"], "value"), setup, workload, line, row["model"], row["precision"])


def _protocol(row: Mapping[str, str], model: str, gpu: str) -> dict[str, Any]:
    """What is published of how a source measured: everything in data/parameters.json whose conditions the row meets."""
    found: dict[str, Any] = {}
    for protocol in load("parameters")["protocols"].values():
        if not isinstance(protocol, str) and _meets(row, model, gpu, protocol):
            found = {**protocol, **found}  # the first that says something holds
    return found


def _meets(row: Mapping[str, str], model: str, gpu: str, protocol: Mapping[str, Any]) -> bool:
    users = row["concurrency"]
    tp, ep, dp = (_number(row[axis] or "1", axis) for axis in ("tp", "ep", "dp"))
    lengths = all(row[name] == str(protocol.get(name, row[name])) for name in ("isl", "osl"))
    return (
        protocol["match"] in row["source"]
        and _engine(row["source"]) == protocol.get("engine", _engine(row["source"]))
        and gpu in protocol.get("gpus", [gpu])
        and model in protocol.get("models", [model])
        and row["precision"] in protocol.get("formats", [row["precision"]])
        and lengths
        and protocol.get("tp_above", 0) < tp < protocol.get("tp_below", tp + 1)
        and dp > protocol.get("attention_dp_above", 0)
        and ep > protocol.get("ep_above", 0)
        and (not users.isdigit() or int(users) >= protocol.get("least_concurrency", 0))
    )


def _metric(metric: str, unit: str) -> str:
    name = metric.lower().removeprefix("mean ")
    if unit == "ms" and name in ("tpot", "itl", "ttft"):
        return "ttft_ms" if name == "ttft" else "tpot_ms"
    if name.startswith("output tokens/s") and unit in ("tok/s (system)", "tok/s"):
        return "tokens_s"
    if name.startswith("output tokens/s") and unit == "tok/s/GPU":
        return "tokens_s_gpu"
    raise PlanError(f"{metric} in {unit} is not predicted")


def _engine(source: str) -> str:
    low = source.lower()
    named = {"sglang": "sglang", "vllm": "vllm", "shardscope": "shardscope", "trt": "trtllm", "tensorrt": "trtllm"}
    named |= {"mlperf": "trtllm", "nvidia": "trtllm"}
    return next((engine for word, engine in named.items() if word in low), "vllm")


def _sharding(row: Mapping[str, str], gpus: int, protocol: Mapping[str, Any]) -> Sharding:
    tp, pp, ep, dp = (int(_number(row[axis] or "1", axis)) for axis in ("tp", "pp", "ep", "dp"))
    if protocol.get("attention_dp") and tp > 1:
        return Sharding(tp=1, pp=pp, dp=dp, attention_dp=tp, ep=tp)
    if protocol.get("spread") and tp > 1:
        return Sharding(tp=tp, pp=pp, ep=tp)
    if gpus == tp * pp * dp:  # ranks counted as tp x dp, experts spread among them
        return Sharding(tp, pp, 1, dp, ep) if ep > 1 else Sharding(tp, pp, dp)
    if gpus == tp * pp * ep * dp:
        return Sharding(tp, pp, dp, ep, ep)
    raise PlanError(f"tp {tp} pp {pp} ep {ep} dp {dp} make no {gpus} GPUs")


def _batched(rule: Mapping[str, float], isl: float, users: str) -> int:
    """Tokens of a step where a script works them out from the prompt's length and the users."""
    count = float(users) if users.isdigit() else 0.0
    given = rule.get("inputs", 0) * isl + rule.get("users", 0) * count + rule.get("more", 0)
    return int(max(given, rule.get("least", 0)))


def _hold(rule: Mapping[str, Any], isl: float, batched: int, groups: int) -> Hold:
    """Prompts held back until they fill a share of a step, or until every attention group has one: g (1 + 1/2 + ... + 1/g) of
    them, as each comes to the group that has just finished one."""
    if rule.get("groups"):
        return Hold(rule["steps"], groups * sum(1 / group for group in range(1, groups + 1)), looks=True)
    return Hold(rule["steps"], max(1.0, rule.get("share", float("inf")) * batched / isl), rule.get("looks", False))


def _workload(load: str, isl: float, osl: float, protocol: Mapping[str, Any]) -> Workload:
    ratio = protocol.get("length_ratio", 1.0)
    work = Workload(
        isl * ratio,
        osl * ratio,
        requests=protocol.get("requests", {}).get(f"{isl:.0f}/{osl:.0f}"),
        max_batch=protocol.get("max_batch", float("inf")),
        balanced=protocol.get("balanced", False),
    )
    if load.upper().startswith("QPS="):
        return replace(work, rate=_number(load[4:], "concurrency"))
    if re.match(r"max|offline|server|saturated|.*infinite", load):
        return work
    per_user = protocol.get("requests_a_user")
    return replace(work, concurrency=_number(load, "concurrency"), burst=1 / per_user if per_user else 0.0)


def _number(text: str, name: str) -> float:
    """`128`, `~294` or `OpenOrca mean ~294`. Raises PlanError when the text ends in no number."""
    found = re.search(r"(?:^|~)(\d+(?:\.\d+)?)$", text.strip())
    if found is None:
        raise PlanError(f"{name} '{text}' is not a number")
    return float(found[1])
