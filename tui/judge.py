"""Judges what a form asks for, by the code that the daemon and the planner judge it by. Reads files and asks the driver: for a
thread, never for the screen's own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tui.view.judgement import AXES, Judgement
from tui.view.settings import as_fields

if TYPE_CHECKING:
    from runtime.checkpoint.config import ModelShape
    from runtime.daemon.settle import Machine, Placement
    from runtime.planner.models import Model
    from runtime.spec import DeploymentSpec
    from telemetry.snapshot import DeploymentView
    from tui.view.fit import Hardware, Wanted

_FRESH_S = 5.0  # a machine's memory is somebody else's a moment later
_FIELD = re.compile(r"(?:--)?([a-z][a-z_-]+) \S+:")


class Judge:
    """Keeps what it has read of checkpoints, and for some seconds what the machine has."""

    def __init__(self, machine: Machine | None = None, hardware: Hardware | None = None) -> None:
        """`machine`, `hardware`: None: this one's."""
        self._machine, self._hardware, self._until = machine, hardware, float("inf") if machine and hardware else 0.0
        self._shapes: dict[tuple[str, int], ModelShape] = {}

    def judge(
        self,
        values: Mapping[str, str],
        current: Mapping[str, Any] | None = None,
        held: float = 0.0,
        taken: Collection[str] = (),
        elsewhere: Hardware | None = None,
    ) -> Judgement:
        """`values`: of a form; `current`: the spec that they change; `held`: bytes that its ranks would give back; `taken`: names
        of deployments that a new one cannot have; `elsewhere`: the machine, when it is not this one."""
        from pydantic import ValidationError

        from runtime.spec import DeploymentSpec, complaints
        from tui.view.fit import fit

        fields, wrong = as_fields(values), dict[str, str]()
        path = Path(fields.get("model") or "").expanduser()
        fields = {**fields, "model": str(path)}
        shape = self._shape(path, values.get("model", ""), wrong)
        model = self._model(path)
        spec: DeploymentSpec | None = None
        try:
            asked = DeploymentSpec.model_validate({**(current or {}), **_blanks(values), **fields})
            spec = asked.model_copy(update={"model": path.absolute()}).named()
        except ValidationError as error:
            wrong |= complaints(error)
        free = _free(spec.name, taken) if spec else ""
        if spec is not None and free != spec.name:
            wrong["name"] = f"name '{spec.name}': a deployment of that name runs; free: {free}"
        if not values.get("model", "").strip():
            spec = None
        if elsewhere is not None and shape is None and model is not None and spec is not None:
            wrong.pop("model", None)  # its checkpoint is on that machine
            wrong |= _planned_rules(spec, model, len(elsewhere.gpus))
        machine, hardware = self._here(elsewhere)
        placement, remedy, words = self._placed(spec, shape, machine, wrong)
        found = None
        if spec is not None and model is not None and (shape is None or placement is not None):
            freed = _freed(hardware, held)
            wanted = _wanted(spec, placement, shape, model, freed)
            found = fit(wanted, model, shape, freed) if wanted else None
        if found is not None and found.verdict.word == "no" and not remedy:
            remedy, words = found.remedy, found.verdict.change
        if "name" in wrong and free and not remedy:
            remedy, words = {"name": free}, f"the name {free}"
        return Judgement(
            wrong=wrong,
            spec=spec.model_dump(mode="json") if spec else None,
            current=current,
            fit=found,
            remedy=remedy,
            remedy_words=words,
            placement=str(placement or ""),
            model=_words(model, shape) if model else "",
            bytes=sum(stage.weights for stage in found.stages) * spec.layout.world_size / spec.pp if found and spec else 0.0,
        )

    def _shape(self, path: Path, text: str, wrong: dict[str, str]) -> ModelShape | None:
        from runtime.checkpoint.config import CheckpointError, read_shape

        if not text.strip():
            wrong["model"] = "model: which one? Type a checkpoint's directory, tab completes it"
            return None
        try:
            key = str(path), (path / "config.json").stat().st_mtime_ns
            if key not in self._shapes:
                self._shapes[key] = read_shape(path)
            return self._shapes[key]
        except OSError:
            pass
        except CheckpointError as error:
            wrong["model"] = str(error)
            return None
        try:
            return read_shape(path)
        except (CheckpointError, OSError) as error:
            wrong["model"] = f"model {error}"
            return None

    @staticmethod
    def _model(path: Path) -> Model | None:
        """As the planner knows it: the checkpoint, or a model of that name."""
        from runtime.planner.models import find_model
        from runtime.planner.names import PlanError

        for name in (str(path), path.name):
            try:
                return find_model(name)
            except PlanError:
                continue
        return None

    def _placed(
        self, spec: DeploymentSpec | None, shape: ModelShape | None, machine: Machine, wrong: dict[str, str]
    ) -> tuple[Placement | None, Mapping[str, Any], str]:
        """What is settled of it; else why not goes to `wrong`, and here the nearest layout that can be."""
        from runtime.daemon.settle import LaunchRefused, settle
        from runtime.layout import broken_rules, nearest_layouts

        if spec is None or shape is None:
            return None, {}, ""
        try:
            return settle(spec, shape, machine), {}, ""
        except LaunchRefused as refused:
            text = str(refused)
            rules = broken_rules(spec.layout, shape)
            blamed = [axis for axis in AXES if any(rule.startswith(f"{axis} ") for rule in rules)] or [_named(text)]
            wrong |= dict.fromkeys(blamed, text)
            near = nearest_layouts(spec.layout, shape, 1) if rules else []
            return None, near[0].asdict() if near else {}, str(near[0]) if near else ""

    def _here(self, elsewhere: Hardware | None) -> tuple[Machine, Hardware]:
        from dataclasses import replace

        from runtime.daemon.settle import Machine

        if self._machine is None or self._hardware is None or time.monotonic() > self._until:
            self._machine, self._hardware, self._until = Machine.here(), _hardware(), time.monotonic() + _FRESH_S
        if elsewhere is not None:
            return replace(self._machine, gpus=len(elsewhere.gpus)), elsewhere
        return self._machine, self._hardware


def _planned_rules(spec: DeploymentSpec, model: Model, gpus: int) -> dict[str, str]:
    """By field, the rules that the layout breaks for a model whose checkpoint is not here, on a machine with so many GPUs."""
    from runtime.planner.parameters import find_format
    from runtime.planner.sharding import Sharding, broken_rules

    rules = broken_rules(Sharding.of(spec.layout), model, find_format("bf16"))
    found = {rule.partition(" ")[0]: rule for rule in reversed(rules)}
    if spec.device == "cuda" and spec.layout.world_size > gpus and not spec.oversubscribe:
        ranks = spec.layout.world_size
        found["device"] = f"{spec.layout} has {ranks} ranks and that machine {gpus} GPUs: a rank needs one of its own"
    return found


def seen(view: DeploymentView) -> Hardware | None:
    """The machine of a deployment that is not on this one, as far as its ranks tell; they would give back what they hold."""
    from tui.view.fit import Device, Hardware

    totals = [float(rank.memory.total) for rank in view.ranks if rank.memory.total]
    if not totals:
        return None
    if view.device == "cpu":
        return Hardware((), max(totals), max(totals))
    return Hardware(tuple(Device(view.device, total, total) for total in totals), 0.0, 0.0)


def _freed(hardware: Hardware, held: float) -> Hardware:
    from dataclasses import replace

    return replace(
        hardware,
        available=min(hardware.memory, hardware.available + held),
        gpus=tuple(replace(gpu, free=min(gpu.total, gpu.free + held)) for gpu in hardware.gpus),
    )


def _wanted(
    spec: DeploymentSpec, placement: Placement | None, shape: ModelShape | None, model: Model, hardware: Hardware
) -> Wanted | None:
    """With what the launcher would settle; None where there is no such device or stage."""
    from tui.view.fit import FORMATS, Wanted

    stored = {form: name for name, form in FORMATS.items()}
    dtype = spec.dtype if spec.dtype != "auto" else shape.dtype if shape else stored.get(model.stored_as, "bfloat16")
    enough = 0 < spec.layout.world_size <= len(hardware.gpus)
    device = placement.device if placement else spec.device if spec.device != "auto" else "cuda" if enough else "cpu"
    if (device == "cuda" and not hardware.gpus) or spec.layout.pp > model.layers:
        return None
    return Wanted(
        layout=spec.layout,
        device=device,
        dtype=dtype,
        context=spec.max_model_len,
        batch=spec.max_num_seqs,
        step_tokens=spec.max_num_batched_tokens,
        share=spec.gpu_memory_utilization,
        kv_bytes=spec.kv_cache_bytes,
        block=spec.block_size,
        eager=spec.enforce_eager,
    )


def _free(name: str, taken: Collection[str]) -> str:
    return name if name not in taken else next(other for i in count(2) if (other := f"{name}-{i}") not in taken)


def _blanks(values: Mapping[str, str]) -> dict[str, None]:
    """What is left open on purpose: a running deployment's own value must not stand in for it."""
    may_be_open = ("max_model_len", "kv_cache_bytes", "micro_batches", "threads")
    return {name: None for name in may_be_open if name in values and not values[name].strip()}


def _named(text: str) -> str:
    """The field that a refusal begins with."""
    found = _FIELD.match(text)
    return found[1].replace("-", "_") if found else "device" if "--device" in text else ""


def _words(model: Model, shape: ModelShape | None) -> str:
    stored = f", {shape.dtype}" if shape else ""
    experts = f", {model.experts} experts" if model.experts else ""
    return f"{model.family} {_count(model.parameters)}, {model.layers} layers{experts}{stored}"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.3g}B" if parameters >= 1e9 else f"{parameters / 1e6:.3g}M"


def _hardware() -> Hardware:
    from telemetry.cgroup import Cgroup
    from tui.view.fit import Hardware

    group = Cgroup()
    memory = group.memory_total()
    return Hardware(_gpus(), memory, min(memory, group.memory_available()))


def _gpus() -> tuple[Any, ...]:
    """Those that this machine's daemon may use, by the driver."""
    import pynvml

    from runtime.daemon.settle import count_gpus
    from tui.view.fit import Device

    count = count_gpus()
    if not count:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        found = []
        for index in range(count):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            name = pynvml.nvmlDeviceGetName(handle)
            found.append(Device(name if isinstance(name, str) else name.decode(), float(memory.total), float(memory.free)))
        return tuple(found)
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()
