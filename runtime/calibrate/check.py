"""How far the planner is off on this machine: what the runtime did against what was predicted, never fitted to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.calibrate.whole import Run
from runtime.planner.calibration import Calibration, errors_of
from runtime.planner.cost import Setup
from runtime.planner.hardware import Cluster, Gpu
from runtime.planner.memory import Precision
from runtime.planner.models import Model
from runtime.planner.parameters import Scale, find_engine
from runtime.planner.serving import Workload, predict
from runtime.planner.sharding import Sharding


@dataclass(frozen=True)
class Checked:
    """One layout under one load, in seconds."""

    run: Run
    ttft: float
    tpot: float

    @property
    def off(self) -> tuple[float, float]:
        """Relative errors of TPOT and TTFT, with their signs."""
        return self.tpot / self.run.tpot - 1, self.ttft / self.run.ttft - 1


def predicted(run: Run, model: Model, device: Gpu, form: Precision, scale: Scale, isl: int, osl: int) -> Checked:
    """The prediction for requests that all begin at once and are the only ones."""
    sharding = Sharding.of(run.layout)
    setup = Setup(model, sharding, Cluster(device, sharding.ranks), form, find_engine("shardscope"), scale)
    found = predict(setup, Workload(isl, osl, run.concurrency, requests=run.concurrency, burst=1.0, text=False))
    return Checked(run, found.ttft, found.tpot)


def with_errors(calibration: Calibration, checked: Sequence[Checked]) -> Calibration:
    """The calibration with the errors that these showed."""
    errors = {}
    for metric, at in (("tpot_ms", 0), ("ttft_ms", 1)):
        if checked:
            errors[metric] = errors_of([abs(each.off[at]) for each in checked])
    return replace(calibration, errors=errors)
