"""Plans what a form asks for. It imports the planner, may read a checkpoint and ask the driver: for a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from telemetry.snapshot import DeploymentView
from tui.view.form import Field, whole_number

if TYPE_CHECKING:
    from runtime.planner.search import Choice, Plan

MOST_GPUS = 16384

T = TypeVar("T")


@dataclass(frozen=True)
class Planned:
    """`wrong`: by field, the value, the rule, the nearest. `cases`: by use case, the choice for it, of the same points.
    `changed`: what would change if one thing were different."""

    wrong: Mapping[str, str] = field(default_factory=dict)
    plan: Plan | None = None
    cases: Mapping[str, Choice | None] = field(default_factory=dict)
    changed: Sequence[tuple[str, Choice | None]] = ()


def fields() -> tuple[Field, ...]:
    """Of the form."""
    from runtime.planner.local import known_names
    from runtime.planner.parameters import engines
    from runtime.planner.search import use_cases

    formats = ("auto", "bf16", "fp8", "int8", "int4", "fp16", "fp32")
    return (
        Field("model", "model", "path", "a checkpoint's directory or a named model; tab completes it"),
        Field("gpu", "gpu", "choice", "of the catalogue, or local: this machine's", tuple(known_names())),
        Field("gpus", "gpus", "count", "how many"),
        Field("isl", "in", "count", "tokens of input", first=128),
        Field("osl", "out", "count", "tokens of output", first=16),
        Field("concurrency", "requests", "count", "in flight at once; blank: every load up to what fits", blank="every load"),
        Field("use_case", "for", "choice", "whose limits count", tuple(use_cases())),
        Field("dtype", "weights", "choice", "number format of the weights", formats),
        Field("engine", "engine", "choice", "whose layouts and collectives", tuple(engines())),
    )


def beginning(view: DeploymentView | None) -> dict[str, str]:
    """What the form begins with: what runs, else a question that many have."""
    from runtime.planner.hardware import catalogued
    from runtime.planner.models import find_model
    from runtime.planner.names import PlanError

    common = {"isl": "1024", "osl": "256", "concurrency": "", "use_case": "chat", "dtype": "auto", "engine": "shardscope"}
    if view is None:
        return {"model": "llama-3.1-70b", "gpu": "h200", "gpus": "8", **common}
    model = view.model
    try:
        find_model(model)
    except PlanError:
        model = model.rstrip("/").rpartition("/")[2]  # its checkpoint is elsewhere, its name may be known
    return {"model": model, "gpu": catalogued(view.device) or "local", "gpus": str(max(1, len(view.ranks))), **common}


def names(text: str) -> list[str]:
    """Named models that begin with the text, then those that hold it."""
    from runtime.planner.models import named_models

    known, low = named_models(), text.strip().lower()
    return sorted((name for name in known if low in name), key=lambda name: not name.startswith(low))


def plan(values: Mapping[str, str], more: bool = False) -> Planned:
    """`more`: what would change if, too, which takes several times as long."""
    from runtime.planner.hardware import Cluster
    from runtime.planner.local import find_device
    from runtime.planner.memory import cache_format
    from runtime.planner.models import find_model
    from runtime.planner.names import PlanError
    from runtime.planner.parameters import find_engine, find_format
    from runtime.planner.search import Request, by_use_case, find_use_case, make_plan, what_if

    wrong: dict[str, str] = {}

    def read(name: str, find: Callable[[str], T]) -> T | None:
        try:
            return find(values[name].strip())
        except PlanError as error:
            wrong[name] = str(error)
            return None

    counts = _counts(values, wrong)
    model, device, engine = read("model", find_model), read("gpu", find_device), read("engine", find_engine)
    use_case, form = read("use_case", find_use_case), read("dtype", lambda text: text != "auto" and find_format(text))
    if model is None or device is None or engine is None or use_case is None or form is None or wrong:
        return Planned(wrong)
    weights, (gpu, known) = form.name if form else (model.stored_as or "bf16"), device
    cluster = Cluster(gpu, counts["gpus"] or 1)
    try:
        request = Request(
            model=model,
            cluster=cluster,
            isl=counts["isl"] or 1,
            osl=counts["osl"] or 1,
            concurrency=counts["concurrency"],
            weights=weights,
            kv=cache_format(engine.kv, weights),
            engine=engine.name,
            calibration=known,
            source=values["model"].strip(),
        )
        made = make_plan(request, use_case)
        cases = by_use_case(made)
        changed = what_if(made) if more and made.choice is not None else []
    except PlanError as error:
        return Planned({"": str(error)})
    return Planned({}, made, cases, changed)


def _counts(values: Mapping[str, str], wrong: dict[str, str]) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for name, most in (("gpus", MOST_GPUS), ("isl", 1 << 24), ("osl", 1 << 24), ("concurrency", 1 << 24)):
        text = values[name].strip()
        found[name] = whole_number(text)
        if name == "concurrency" and not text:
            continue
        if found[name] is None or not 1 <= (found[name] or 0) <= most:
            wrong[name] = f"{name} '{text}': a whole number from 1 to {most:,}, as 8"
    return found
