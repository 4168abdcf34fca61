"""Matrix products of bfloat16, compiled for processors that have instructions for them: a matrix unit, or else dot products.

Weights are packed in panels of 32 outputs, pairs of inputs side by side, as the instructions of both take them. A thread takes
some of the panels; while one is multiplied the next is asked for, so that memory is read while products are computed. Sums are
float32.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F

from runtime.model import dot_kernel, native, tile_kernel
from runtime.model.native import PANEL

SMALL = 1 << 18  # products of numbers: less is done sooner than a team is called together


class _Instructions(Protocol):
    """A module that multiplies with them. Panels have a multiple of its STEP of pairs of inputs."""

    STEP: int

    def compile_all(self) -> None: ...

    def run(self, x: torch.Tensor, out: torch.Tensor, steps: int, weights: Sequence[tuple[int, int, int]], alone: bool) -> None:
        """x [rows, in] -> out [rows, panels x 32].

        For each weight: its address, its bias's, and how many of the next rows are its own, at least 1. `steps`: of a panel.
        `alone`: not in all of torch's threads.
        """
        ...


@functools.cache
def _instructions() -> _Instructions | None:
    """Those of this processor."""
    if not native.available():
        return None
    if tile_kernel.available():
        return tile_kernel
    return dot_kernel if dot_kernel.available() else None


def available() -> bool:
    return _instructions() is not None


def compile_all() -> None:
    """What `multiply` will call."""
    if instructions := _instructions():
        instructions.compile_all()


def takes(weight: torch.Tensor) -> bool:
    """weight [out, in]."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and weight.numel() > 0
        and weight.shape[1] % 2 == 0
        and available()
    )


class Panels:
    """A weight [out, in] and a bias [out] or None, packed: [out / 32, in / 2, 32, 2], with zeros for what is missing of both."""

    __slots__ = ("_bias", "_instructions", "_weight", "addresses", "outputs", "size")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        instructions = _instructions()
        assert instructions is not None
        self.outputs, inputs = weight.shape
        missing, missing_inputs = -self.outputs % PANEL, -inputs % (2 * instructions.STEP)
        whole = F.pad(weight, (0, missing_inputs, 0, missing)) if missing or missing_inputs else weight.contiguous()
        panels, pairs = whole.shape[0] // PANEL, whole.shape[1] // 2
        self.size = panels, pairs
        self._instructions = instructions
        self._weight = whole.view(torch.int32).view(panels, PANEL, pairs).transpose(1, 2).contiguous()
        self._bias = _nothing(whole.shape[0]) if bias is None else F.pad(bias, (0, missing))
        self.addresses = self._weight.data_ptr(), self._bias.data_ptr()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [rows, in] -> [rows, out]."""
        return multiply([self], x, [x.shape[0]])

    def run(self, x: torch.Tensor, out: torch.Tensor, weights: Sequence[tuple[int, int, int]]) -> None:
        """With weights of this one's size: see `_Instructions`."""
        alone = out.numel() * x.shape[1] < SMALL
        self._instructions.run(x, out, self.size[1] // self._instructions.STEP, weights, alone)


def multiply(weights: Sequence[Panels], x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """The next counts[i] rows of x [rows, in] times weights[i], all of one size -> [rows, out]."""
    one = weights[0]
    out = x.new_empty((x.shape[0], one.size[0] * PANEL))
    if groups := [(*each.addresses, rows) for each, rows in zip(weights, counts, strict=True) if rows]:
        one.run(x.contiguous(), out, groups)
    return out if out.shape[1] == one.outputs else out[:, : one.outputs].contiguous()


@functools.cache
def _nothing(outputs: int) -> torch.Tensor:
    return torch.zeros(outputs, dtype=torch.bfloat16)
