"""A machine as `shardscope calibrate` measured it: what its ranks reach, alone and beside each other.

On CPU ranks share cores and memory bandwidth, so every rate depends on how many there are and how many work at once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.planner.parameters import Curve, Format, Scale
from runtime.planner.rates import Read

COMPUTE = {"bf16": "bf16", "fp32": "fp32", "fp16": "fp16"}  # formats with products of their own; others run as bf16


@dataclass(frozen=True)
class Part:
    """One rank. `products`, by format: (rows, seconds a parameter); `kv`: (bytes of cache read in a layer, bytes/s); `prompts`:
    (tokens, flops/s); `layer` and `moe_layer`: (rows, seconds) of a layer of no size; `expert`: seconds of one of no size;
    `read`: bytes/s."""

    products: Mapping[str, Curve]
    kv: Curve
    prompts: Curve
    layer: Curve
    moe_layer: Curve
    expert: float
    read: float


@dataclass(frozen=True)
class Crowd:
    """Ranks that outnumber the cores. `wait`: seconds that it takes longer from one exchange to the next although those that work
    have a core each, because the others look for their turn; `loss`: how much longer than their share of the cores explains it
    takes when more work than there are cores."""

    wait: float = 0.0
    loss: float = 1.0


@dataclass(frozen=True)
class Machine:
    """`cores`: that ranks share; 0: each rank has a device. `parts`: by number of ranks: one at work, and all."""

    cores: int
    parts: Mapping[int, tuple[Part, Part]]
    crowd: Crowd
    step: float  # seconds that the engine adds to a step
    turn: float  # the same with pipeline stages, where no step is sent before its token is known
    hand_over: Curve  # (bytes, seconds)
    process: float  # bytes of a rank beside weights, cache and activations

    def threads(self, ranks: int) -> int:
        return max(1, self.cores // ranks) if self.cores else 1

    def wait(self, ranks: int, busy: float) -> float:
        """What an exchange takes longer because ranks without work outnumber the cores."""
        return self.crowd.wait if 0 < self.cores < ranks and busy * self.threads(ranks) <= self.cores else 0.0

    def rates(self, ranks: int, busy: float) -> MeasuredRates:
        """Of one rank of `ranks`, of which `busy` work at once."""
        known = sorted(self.parts)
        nearest = max((n for n in known if n <= ranks), default=known[0])
        alone, together = self.parts[nearest]
        shared = min(1.0, max(0.0, (busy - 1) / (nearest - 1))) if nearest > 1 else 0.0
        asked = busy * self.threads(ranks) / self.cores if self.cores else 1.0
        return MeasuredRates(self, alone, together, shared, asked * self.crowd.loss if asked > 1 else 1.0)


@dataclass(frozen=True)
class MeasuredRates:
    """`shared`: from 0, one rank at work, to 1, all; `turns`: how many times over the cores are asked for."""

    machine: Machine
    alone: Part
    together: Part
    shared: float
    turns: float

    def _mix(self, alone: float, together: float) -> float:
        return (alone + self.shared * (together - alone)) * self.turns

    def _each(self, rows: float, form: Format) -> tuple[float, float]:
        """Seconds of one parameter: read for a single row, and for so many."""
        found = []
        for part in (self.alone, self.together):
            points = part.products.get(form.name) or part.products["bf16" if "bf16" in part.products else "fp32"]
            found.append((points[0][1], read_power(points, rows)))
        (one, many), (one_shared, many_shared) = found
        return self._mix(one, one_shared), self._mix(many, many_shared)

    def product(self, rows: float, parameters: float, form: Format, scale: Scale) -> Read:
        """Few rows take what reading takes; what more rows take beyond it is computing."""
        if not rows:
            return Read(0.0, 0.0)
        one, many = self._each(rows, form)
        read = min(one, many)
        return Read(parameters * read * scale.memory, parameters * (many - read) * scale.compute)

    def experts(self, rows: float, touched: float, each: float, form: Format, scale: Scale) -> Read:
        return self.product(rows / touched, touched * each, form, scale) if touched else Read(0.0, 0.0)

    def elementwise(self, moved: float) -> float:
        return moved * self._mix(1 / self.alone.read, 1 / self.together.read)

    def decode_attention(self, sequences: float, read: float, flops: float) -> float:
        rate = [read_power(part.kv, read, beyond=0.0) for part in (self.alone, self.together)]
        return read * self._mix(1 / rate[0], 1 / rate[1])

    def prompt_attention(self, tokens: float, flops: float) -> float:
        rate = [read_power(part.prompts, tokens, beyond=0.0) for part in (self.alone, self.together)]
        return flops * self._mix(1 / rate[0], 1 / rate[1])

    def launch(self, rows: float, moe: float, touched: float) -> float:
        def of(part: Part) -> float:
            dense = read_power(part.layer, rows, beyond=0.0)
            if not moe:
                return dense
            return (1 - moe) * dense + moe * (read_power(part.moe_layer, rows, beyond=0.0) + touched * part.expert)

        return self._mix(of(self.alone), of(self.together))

    def engine_step(self, stages: int) -> float:
        return self.machine.step if stages == 1 else self.machine.turn


def read_power(points: Curve, x: float, beyond: float = 1.0) -> float:
    """Log-log between points; flat before the first. After the last: y grows as x does, or as x^`beyond`."""
    if x <= points[0][0]:
        return points[0][1]
    last, end = points[-1]
    if x >= last:
        return end * math.pow(x / last, beyond)
    i = bisect_left(points, (x,))
    (x0, y0), (x1, y1) = points[i - 1], points[i]
    return y0 * math.pow(y1 / y0, math.log(x / x0) / math.log(x1 / x0))


def read_machine(fields: Mapping[str, Any]) -> Machine:
    """The `machine` of a calibration file. Raises KeyError, TypeError or ValueError when it is of another form.

    Spelled in the units of their names: {"cores", "step_ms", "turn_ms", "process_mib", "hand_over_us": [[bytes, us], ...],
    "crowd": {"wait_us", "loss"}, "ranks": {"2": {"alone": {...}, "together": {...}}}}; a part is {"products_ps": {"bf16":
    [[rows, ps a parameter], ...]}, "kv_gb_s", "prompt_gflops", "layer_us", "moe_layer_us": curves, "expert_us", "read_gb_s"}.
    """
    crowd = fields.get("crowd") or {}
    parts = {
        int(n): (_part(each.get("alone") or each["together"]), _part(each["together"])) for n, each in fields["ranks"].items()
    }
    if not parts:
        raise ValueError("nothing was measured")
    return Machine(
        cores=int(fields["cores"]),
        parts=parts,
        crowd=Crowd(_positive(crowd.get("wait_us", 0.0)) * 1e-6, max(1.0, float(crowd.get("loss", 1.0)))),
        step=_positive(fields["step_ms"]) * 1e-3,
        turn=_positive(fields["turn_ms"]) * 1e-3,
        hand_over=_curve(fields["hand_over_us"], 1e-6),
        process=_positive(fields["process_mib"]) * 2**20,
    )


def _part(fields: Mapping[str, Any]) -> Part:
    return Part(
        products={form: _curve(points, 1e-12) for form, points in fields["products_ps"].items()},
        kv=_curve(fields["kv_gb_s"], 1e9),
        prompts=_curve(fields["prompt_gflops"], 1e9),
        layer=_curve(fields["layer_us"], 1e-6),
        moe_layer=_curve(fields["moe_layer_us"], 1e-6),
        expert=_positive(fields["expert_us"]) * 1e-6,
        read=_positive(fields["read_gb_s"]) * 1e9,
    )


def _curve(points: Any, unit: float) -> Curve:
    found = tuple(sorted((float(x), _positive(y) * unit) for x, y in points))
    if not found or found[0][0] <= 0:
        raise ValueError(f"{points} is no curve: it needs points (x, y) of positive numbers")
    return found


def _positive(value: Any) -> float:
    number = float(value)
    if not (0 <= number < math.inf):
        raise ValueError(f"{value} is no measured value")
    return number
