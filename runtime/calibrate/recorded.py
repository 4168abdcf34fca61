"""Fit the planner's eight factors to recordings of real runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import strftime
from typing import Any

from profiles.container import KEYFRAMES
from profiles.provenance import Provenance
from profiles.reader import Profile, ProfileError
from runtime.calibrate.steps import RequestPoint, Stage, StepPoint, request_points, step_points
from runtime.layout import Layout
from runtime.planner import calibration
from runtime.planner.calibration import Calibration
from runtime.planner.cost import Setup
from runtime.planner.hardware import Cluster, Gpu, catalogued, find_gpu
from runtime.planner.local import CPU, calibration_path, find_device
from runtime.planner.memory import precision
from runtime.planner.models import Model, find_model
from runtime.planner.names import PlanError
from runtime.planner.parameters import SCALES, find_engine
from runtime.planner.sharding import Sharding, stage_split
from telemetry.codec import CodecError, decode_envelope
from telemetry.records import RequestRecord, StepRecord

FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
Point = StepPoint | RequestPoint


def fit_runs(runs: Sequence[Path], out: Path | None, model: str | None, tell: Callable[[str], None]) -> Path:
    """Returns the file. `model`: whose steps were recorded, where its directory is no longer what the recordings name.

    What `shardscope calibrate` measured before is kept: the factors correct it. Raises PlanError.
    """
    points: list[Point] = []
    devices: dict[str, Gpu] = {}
    known: Calibration | None = None
    for path in runs:
        steps, requests, about = _read(path)
        device, known = _device(about, path, known)
        devices[device.name] = device
        found = _points(steps, requests, _setup(about, path, device, model), about)
        tell(f"{path}: {len(steps):,} steps and {len(requests):,} requests under {Layout(**about.layout)}, {len(found)} kinds")
        points += found
    if len(devices) > 1:
        raise PlanError(f"the recordings are of {', '.join(sorted(devices))}: fit one device at a time")
    if not points:
        raise PlanError(f"{', '.join(map(str, runs))}: too few steps and requests to learn from")
    (name,) = devices
    fitted = calibration.calibrate(points, known.machine if known and known.machine else about.host or name)
    path = out or calibration_path(name)
    before = _before(path, calibration_path(name))
    calibration.save(replace(fitted, gpu=name, date=strftime("%Y-%m-%d")), path, **before, fitted_to=[str(run) for run in runs])
    changed = [f"{factor} {getattr(fitted.scale, factor):.2f}" for factor in SCALES]
    tell(f"factors on time: {', '.join(changed)}")
    for metric, errors in sorted(fitted.errors.items()):
        off = f"off by {errors.p50:.0%} (p50), {errors.p90:.0%} (p90) of {errors.points}, each unseen"
        tell(f"  {metric.removesuffix('_ms').replace('_', '-')}: {off}")
    return path


def _read(path: Path) -> tuple[list[StepRecord], list[RequestRecord], Provenance]:
    steps: list[StepRecord] = []
    requests: list[RequestRecord] = []
    try:
        with Profile(path) as profile:
            about = profile.provenance
            for entry in profile.entries():
                if entry.topic == KEYFRAMES:
                    continue
                with suppress(CodecError, ValueError):
                    for record in decode_envelope(entry.data).records:
                        if isinstance(record, StepRecord):
                            steps.append(record)
                        elif isinstance(record, RequestRecord):
                            requests.append(record)
    except ProfileError as error:
        raise PlanError(str(error)) from None
    if about is None or not about.layout:
        raise PlanError(f"{path} does not say of which deployment it is: nothing to learn from")
    return steps, requests, about


def _device(about: Provenance, path: Path, known: Calibration | None) -> tuple[Gpu, Calibration | None]:
    """The recording's device before any factor is fitted, with what was measured of it here."""
    if about.emulated:
        raise PlanError(f"{path} is of an emulated deployment: its ranks shared GPUs, which says nothing of such devices")
    if about.device == "cpu":
        device, found = find_device(CPU)
        return device, known or found
    products = [name for product in about.devices if (name := catalogued(product)) is not None]
    if not products:
        raise PlanError(f"{path}: its devices ({', '.join(about.devices) or 'unknown'}) are not in the catalogue")
    local = calibration_path(products[0])
    measured = calibration.load(local) if local.is_file() else None
    return (measured.device if measured and measured.device else find_gpu(products[0])), known or measured


def _setup(about: Provenance, path: Path, device: Gpu, model: str | None) -> Setup:
    layout = Layout(**about.layout)
    place = model or about.model
    try:
        found = find_model(place)
    except PlanError as error:
        raise PlanError(f"{path} is of the model at {about.model}: name it with --model ({error})") from None
    config = Path(place) / "config.json"
    if about.config_hash and config.is_file() and hashlib.sha256(config.read_bytes()).hexdigest()[:16] != about.config_hash:
        raise PlanError(f"{path} is of another model than {place}: their config.json differ")
    sharding = Sharding.of(layout)
    form = precision(found, FORMATS.get(about.dtype, "bf16"), "plain")
    return Setup(found, sharding, Cluster(device, layout.world_size), form, find_engine("shardscope"))


def _points(steps: list[StepRecord], requests: list[RequestRecord], setup: Setup, about: Provenance) -> list[Point]:
    block = about.settings.get("block_size")
    stages = _stages(setup.model, Layout(**about.layout))
    return [*step_points(setup, steps, stages, block if isinstance(block, int) else 16), *request_points(setup, requests)]


def _stages(model: Model, layout: Layout) -> dict[int, Stage]:
    """By rank. Stages between the last and the largest have at most a layer less."""
    inner, last = stage_split(model, layout.pp, "balanced")
    places = {rank: layout.coordinates(rank).pp for rank in range(layout.world_size)}
    return {rank: Stage(last, True) if at == layout.pp - 1 else Stage(inner, False) for rank, at in places.items()}


def _before(path: Path, local: Path) -> dict[str, Any]:
    """What was measured of the machine, to be kept in the file."""
    found = next((calibration.read(each) for each in (path, local) if each.is_file()), {})
    return {key: found[key] for key in ("host", "versions", "device", "rates", "taken_by_others") if key in found}
