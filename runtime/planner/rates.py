"""How fast one rank does the parts of a step: by its data sheet and the shares of it that others measured.

The machine that was measured here has rates of its own: `runtime.planner.machine`. All times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

from runtime.planner.hardware import Gpu
from runtime.planner.parameters import Engine, Format, Grouped, Scale, curve, grouped, rates, read_curve, scalar


class Read(NamedTuple):
    """Seconds of a matrix product: reading the weights, and what multiplying adds."""

    weights: float
    compute: float


class Rates(Protocol):
    def product(self, rows: float, parameters: float, form: Format, scale: Scale) -> Read:
        """`rows` times matrices of so many parameters in all."""

    def experts(self, rows: float, touched: float, each: float, form: Format, scale: Scale) -> Read:
        """`rows` in all, spread over so many `touched` experts of `each` parameters."""

    def elementwise(self, moved: float) -> float:
        """Norms, activations and the like, which move so many bytes."""

    def decode_attention(self, sequences: float, read: float, flops: float) -> float:
        """Of one layer: bytes of cache read; `flops` where they can outweigh the reading, else 0."""

    def prompt_attention(self, tokens: float, flops: float) -> float:
        """Of one layer: causal attention of a prompt of so many tokens."""

    def launch(self, rows: float, moe: float, touched: float) -> float:
        """What a mean layer takes however small it is; `moe`: share of layers with experts, of which `touched` have work."""

    def engine_step(self, stages: int) -> float:
        """What the engine adds to a pass through so many stages."""


@dataclass(frozen=True)
class SheetRates:
    """A device of the catalogue. Reading and multiplying overlap: a product takes their p-norm."""

    gpu: Gpu
    engine: Engine
    weights: Format  # of the experts

    @cached_property
    def _known(self) -> dict[str, tuple[float, float]]:
        return {}

    @cached_property
    def _grouped(self) -> Grouped:
        return grouped(self.gpu, self.weights, self.engine.experts)

    def _of(self, form: Format) -> tuple[float, float]:
        if form.name not in self._known:
            found = rates(self.gpu, form)
            self._known[form.name] = found.memory, found.compute
        return self._known[form.name]

    def product(self, rows: float, parameters: float, form: Format, scale: Scale) -> Read:
        memory, compute = self._of(form)
        return _overlapped(parameters * form.bytes / memory * scale.memory, 2 * rows * parameters / compute * scale.compute)

    def experts(self, rows: float, touched: float, each: float, form: Format, scale: Scale) -> Read:
        found = self._grouped
        padded = rows + touched * found.padding
        return _overlapped(
            touched * each * form.bytes / found.memory * scale.memory, 2 * padded * each / found.compute * scale.compute
        )

    def elementwise(self, moved: float) -> float:
        return moved / self.gpu.bandwidth

    def decode_attention(self, sequences: float, read: float, flops: float) -> float:
        reading = read / (self.gpu.bandwidth * scalar("decode_attention_efficiency"))
        if flops:
            reading = sum(_overlapped(reading, flops / (self.gpu.flops["bf16"] * scalar("mla_attention_efficiency"))))
        return reading + scalar("decode_attention_floor_us") * 1e-6

    def prompt_attention(self, tokens: float, flops: float) -> float:
        share = read_curve(curve("prefill_attention_mfu"), tokens)
        return flops / (self.gpu.flops.get("bf16", self.gpu.flops.get("fp32", 0.0)) * share)

    def launch(self, rows: float, moe: float, touched: float) -> float:
        kernels = (1 - moe) * scalar("kernels_dense_layer") + moe * scalar("kernels_moe_layer")
        return kernels * scalar("kernel_us") * 1e-6 + (moe * self._grouped.overhead if moe else 0.0)

    def engine_step(self, stages: int) -> float:
        return scalar("step_ms") * 1e-3


def _overlapped(read: float, multiply: float) -> Read:
    """The p-norm of both, split by what each has of it."""
    if not read + multiply:
        return Read(0.0, 0.0)
    p = scalar("roofline_norm")
    a, b = read**p, multiply**p
    total = (a + b) ** (1 / p)
    return Read(total * a / (a + b), total * b / (a + b))
