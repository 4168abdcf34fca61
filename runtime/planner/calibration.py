"""Correct the planner by what a machine was seen to do: eight factors on time, fitted to measurements and kept in a file.

The file is JSON: {"version": 1, "gpu": the device's name, "machine": words, "host", "date", "versions", "device": an entry of
data/gpus.json with the machine's own `measured` tables or null, "rates": as `machine.read_machine` reads them or null, "scale":
the eight factors, "errors": {metric: {"p50", "p90", "points"}}}. `device` and `rates` are what `shardscope calibrate` measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from runtime.planner.hardware import Gpu, read_gpu
from runtime.planner.machine import read_machine
from runtime.planner.names import PlanError
from runtime.planner.parameters import SCALES, Scale, scalar

VERSION = 1
FOLDS = 5
MANY = 60  # points


class Point(Protocol):
    """Something measured: a value, and what the planner says of it under given factors."""

    @property
    def metric(self) -> str: ...

    @property
    def value(self) -> float: ...

    def predicted(self, scale: Scale | None = None) -> float: ...


@dataclass(frozen=True)
class Errors:
    """How far predictions were off where they could be checked, relative."""

    p50: float
    p90: float
    points: int


@dataclass(frozen=True)
class Calibration:
    """What is known of a machine. Nothing: the catalogue's rates, marked uncalibrated."""

    machine: str = ""
    scale: Scale = field(default_factory=Scale)
    errors: Mapping[str, Errors] = field(default_factory=dict)
    device: Gpu | None = None
    gpu: str = ""  # that it is true of; empty: any
    date: str = ""
    uncalibrated: float | None = None  # relative error to expect where nothing was measured; None: as of the catalogue's GPUs

    @property
    def calibrated(self) -> bool:
        return bool(self.errors)

    def band(self, metric: str) -> float:
        """Relative error to expect, nine times of ten: as measured, or the catalogue's when nothing was."""
        if metric in self.errors:
            return self.errors[metric].p90
        return scalar("uncalibrated_band") if self.uncalibrated is None else self.uncalibrated


def fit(points: Sequence[Point], start: Scale | None = None) -> Scale:
    """The factors that explain the points best: least squares of log errors, drawn to `start` by a weak prior.

    Levenberg-Marquardt over the logs of the eight factors; the prior keeps those that no point depends on where they were.
    """
    origin = np.log([getattr(start or Scale(), name) for name in SCALES])
    theta, damping = origin.copy(), 1e-2
    prior = scalar("calibration_prior")

    def errors(at: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        scale = _scale(at)
        found = [math.log(point.predicted(scale) / point.value) for point in points]
        return np.array([*found, *(math.sqrt(prior) * (at - origin))])

    now = errors(theta)
    for _ in range(30):
        step = 1e-4
        slopes = np.stack([(errors(theta + step * unit) - now) / step for unit in np.eye(len(theta))], axis=1)
        normal, gradient = slopes.T @ slopes, slopes.T @ now
        move = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -gradient)
        there = errors(theta + move)
        if there @ there < now @ now:
            done = (now @ now - there @ there) < 1e-6 * (now @ now)
            theta, now, damping = theta + move, there, damping / 5
            if done:
                break
        else:
            damping *= 5
            if damping > 1e6:
                break
    return _scale(theta)


def calibrate(points: Sequence[Point], machine: str = "", device: Gpu | None = None) -> Calibration:
    """Fit to all points. Each error is that of a fit which has not seen its point: points are left out a fifth at a time.

    Of many points one fifth tells enough; with less than two a fifth, the errors are the fit's own.
    """
    scale = fit(points)
    off: dict[str, list[float]] = {}
    few = len(points) < 2 * FOLDS
    for fold in range(FOLDS if len(points) <= MANY else 1):
        unseen = scale if few else fit([point for i, point in enumerate(points) if i % FOLDS != fold])
        for point in points[fold::FOLDS]:
            off.setdefault(point.metric, []).append(abs(point.predicted(unseen) / point.value - 1))
    return Calibration(machine, scale, {metric: errors_of(values) for metric, values in off.items()}, device)


def errors_of(off: Sequence[float]) -> Errors:
    """Of relative errors, one at least."""
    ordered = sorted(off)
    return Errors(ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))], len(ordered))


def save(calibration: Calibration, path: Path, **measured: Any) -> None:
    """Write the file. `measured`: its fields that a Calibration does not keep as they are spelled there."""
    content = {
        "version": VERSION,
        "gpu": calibration.gpu,
        "machine": calibration.machine,
        "date": calibration.date,
        "device": None,
        "rates": None,
        **measured,
        "scale": asdict(calibration.scale),
        "errors": {metric: asdict(errors) for metric, errors in calibration.errors.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """The file's content. Raises PlanError when it is none of ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise PlanError(f"{path} is no calibration: {error}") from None
    if not isinstance(content, dict) or "version" not in content:
        raise PlanError(f"{path} is no calibration: it has no version")
    if content["version"] != VERSION:
        raise PlanError(f"{path} has version {content['version']}; this planner reads {VERSION}")
    return content


def load(path: Path) -> Calibration:
    """Read the file. Raises PlanError naming what is wrong with it."""
    content = read(path)
    try:
        return _parse(content)
    except KeyError as error:
        raise PlanError(f"{path} is no calibration: it lacks {error.args[0]}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise PlanError(f"{path} is no calibration: {error}") from None


def _parse(content: Mapping[str, Any]) -> Calibration:
    """Raises KeyError, ValueError, TypeError or AttributeError."""
    factors = {name: float(value) for name, value in content["scale"].items()}
    for name, value in factors.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"scale {name} is {value}; a factor is more than 0")
    errors = {metric: Errors(**values) for metric, values in content["errors"].items()}
    name = str(content.get("gpu") or "")
    device = read_gpu(name or "local", content["device"]) if content.get("device") else None
    if device is not None and content.get("rates"):
        device = replace(device, machine=read_machine(content["rates"]))
    machine, date = str(content["machine"]), str(content.get("date") or "")
    return Calibration(machine, replace(Scale(), **factors), errors, device, name, date)


def _scale(theta: Sequence[float] | np.ndarray[Any, Any]) -> Scale:
    return Scale(*(float(np.exp(value)) for value in theta))
