"""Correct the planner by what a machine was seen to do: eight factors on time, fitted to measurements and kept in a file.

The file is JSON: {"version": 1, "machine": words, "device": an entry of data/gpus.json with the machine's own `measured`
tables or null, "scale": the eight factors, "errors": {metric: {"p50", "p90", "points"}}}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from runtime.planner.hardware import Gpu, read_gpu
from runtime.planner.measurements import Measurement
from runtime.planner.names import PlanError
from runtime.planner.parameters import SCALES, Scale, scalar

VERSION = 1


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

    @property
    def calibrated(self) -> bool:
        return bool(self.errors)

    def band(self, metric: str) -> float:
        """Relative error to expect, nine times of ten: as measured, or the catalogue's when nothing was."""
        return self.errors[metric].p90 if metric in self.errors else scalar("uncalibrated_band")


def fit(points: Sequence[Measurement], start: Scale | None = None) -> Scale:
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


def calibrate(points: Sequence[Measurement], machine: str = "", device: Gpu | None = None) -> Calibration:
    """Fit on four of five points and report the errors of the fifth; with fewer than ten, the errors of all are the fit's own."""
    held = points[4::5] if len(points) >= 10 else points
    used = [p for i, p in enumerate(points) if i % 5 != 4] if len(points) >= 10 else points
    scale = fit(used)
    by_metric = {metric: [p for p in held if p.metric == metric] for metric in {p.metric for p in held}}
    errors = {}
    for metric, rows in by_metric.items():
        off = sorted(abs(p.predicted(scale) / p.value - 1) for p in rows)
        errors[metric] = Errors(off[len(off) // 2], off[min(len(off) - 1, int(0.9 * len(off)))], len(off))
    return Calibration(machine, scale, errors, device)


def save(calibration: Calibration, path: Path, device: Mapping[str, Any] | None = None) -> None:
    """Write the file; `device` is the entry as gpus.json spells it."""
    content = {
        "version": VERSION,
        "machine": calibration.machine,
        "device": device,
        "scale": asdict(calibration.scale),
        "errors": {metric: asdict(errors) for metric, errors in calibration.errors.items()},
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load(path: Path) -> Calibration:
    """Read the file. Raises PlanError naming what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise PlanError(f"{path} has version {content['version']}; this planner reads {VERSION}")
        scale = replace(Scale(), **{name: float(value) for name, value in content["scale"].items()})
        errors = {metric: Errors(**values) for metric, values in content["errors"].items()}
        device = content.get("device")
        machine = str(content["machine"])
        return Calibration(machine, scale, errors, read_gpu(machine, device) if device else None)
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error}") from None
    except PlanError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{path} is no calibration: {error}") from None


def _scale(theta: Sequence[float] | np.ndarray[Any, Any]) -> Scale:
    return Scale(*(float(np.exp(value)) for value in theta))
