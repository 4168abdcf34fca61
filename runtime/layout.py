"""A layout: the four degrees of parallelism, which rank sits where, which layouts a model can take and why not.

Ranks are numbered with tp running fastest, then ep, pp, dp: neighbours in rank share a tp group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from runtime.checkpoint.config import ModelShape

AXES = ("dp", "pp", "ep", "tp")


class Coordinates(NamedTuple):
    """A rank's place on each axis, counted from 0."""

    dp: int
    pp: int
    ep: int
    tp: int


@dataclass(frozen=True)
class Layout:
    """Degrees of data, pipeline, expert and tensor parallelism. world size = dp x pp x ep x tp."""

    dp: int = 1
    pp: int = 1
    ep: int = 1
    tp: int = 1

    def __post_init__(self) -> None:
        for axis in AXES:
            degree = getattr(self, axis)
            if not isinstance(degree, int) or degree < 1:
                raise ValueError(f"{axis} is {degree}: a degree is a whole number, 1 or more")

    @classmethod
    def parse(cls, text: str) -> Layout:
        """`tp2pp2`, `EP8TP4DP2` or `tp1` -> Layout. Raises ValueError naming what is wrong."""
        found = re.findall(r"(dp|pp|ep|tp)\s*[=x]?\s*(\d+)[,\s]*", text.lower())
        if not found or "".join(re.split(r"[=x,\s]", text.lower())) != "".join(a + d for a, d in found):
            raise ValueError(f"'{text}' is no layout: write degrees as tp2pp2 or EP8TP4DP2")
        axes = [axis for axis, _ in found]
        if len(set(axes)) != len(axes):
            raise ValueError(f"'{text}' names an axis twice")
        return cls(**{axis: int(degree) for axis, degree in found})

    def __str__(self) -> str:
        return "".join(f"{axis}{getattr(self, axis)}" for axis in ("tp", "pp", "ep", "dp") if getattr(self, axis) > 1) or "tp1"

    def asdict(self) -> dict[str, int]:
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def world_size(self) -> int:
        return self.dp * self.pp * self.ep * self.tp

    @property
    def replica_size(self) -> int:
        """Ranks of one replica."""
        return self.pp * self.ep * self.tp

    def coordinates(self, rank: int) -> Coordinates:
        rest, tp = divmod(rank, self.tp)
        rest, ep = divmod(rest, self.ep)
        dp, pp = divmod(rest, self.pp)
        return Coordinates(dp, pp, ep, tp)

    def rank(self, at: Coordinates) -> int:
        return ((at.dp * self.pp + at.pp) * self.ep + at.ep) * self.tp + at.tp

    def group(self, rank: int, axis: str) -> tuple[int, ...]:
        """The ranks that differ from `rank` on `axis` alone, in order of their place on it."""
        at = self.coordinates(rank)
        return tuple(self.rank(at._replace(**{axis: i})) for i in range(getattr(self, axis)))


def broken_rules(layout: Layout, shape: ModelShape) -> list[str]:
    """Every rule by which the model cannot take the layout, each naming its values; empty when it can."""
    rules: list[str] = []
    if shape.num_heads % layout.tp:
        rules.append(f"tp {layout.tp}: {shape.num_heads} attention heads do not divide by it")
    kv = shape.num_kv_heads
    if kv % layout.tp and layout.tp % kv:
        rules.append(f"tp {layout.tp}: {kv} kv heads neither divide by it nor divide it")
    if shape.intermediate_size % layout.tp and not all(shape.is_moe_layer(i) for i in range(shape.num_layers)):
        rules.append(f"tp {layout.tp}: intermediate_size {shape.intermediate_size} does not divide by it")
    if shape.num_experts and shape.expert_intermediate_size % layout.tp:
        rules.append(f"tp {layout.tp}: an expert's intermediate size {shape.expert_intermediate_size} does not divide by it")
    if layout.pp > shape.num_layers:
        rules.append(f"pp {layout.pp}: the model has only {shape.num_layers} layers, a stage needs one at least")
    if layout.ep > 1 and not shape.num_experts:
        rules.append(f"ep {layout.ep}: the model has no experts (use dp {layout.ep} for more replicas)")
    elif layout.ep > max(1, shape.num_experts):
        rules.append(f"ep {layout.ep}: the model has only {shape.num_experts} experts, a member needs one at least")
    return rules


def possible_layouts(shape: ModelShape, world_size: int) -> Iterator[Layout]:
    """Every layout of exactly `world_size` ranks that the model can take."""
    for tp in _divisors(world_size):
        for ep in _divisors(world_size // tp):
            for pp in _divisors(world_size // tp // ep):
                layout = Layout(dp=world_size // tp // ep // pp, pp=pp, ep=ep, tp=tp)
                if not broken_rules(layout, shape):
                    yield layout


def nearest_layouts(layout: Layout, shape: ModelShape, count: int = 3, most: int | None = None) -> list[Layout]:
    """The possible layouts most like an impossible one: as many ranks, `most` at most, if any; else the next fewer."""

    def distance(other: Layout) -> float:
        pairs = zip(layout.asdict().values(), other.asdict().values(), strict=True)
        return sum(abs(asked - found) / max(asked, found) for asked, found in pairs)

    for world_size in range(min(layout.world_size, most or layout.world_size), 0, -1):
        found = sorted(possible_layouts(shape, world_size), key=distance)
        if found:
            return found[:count]
    return []


def stage_layers(shape: ModelShape, pp: int) -> list[range]:
    """Consecutive layers of each stage, balanced: the largest stage's cost is the smallest possible.

    A layer costs the parameters that a decode step reads of it; the LM head, on the last stage, likewise; the embedding,
    on the first, reads a row a token and costs nothing in time but holds memory, so it counts a tenth.
    """
    costs = [float(shape.active_layer_parameters(i)) for i in range(shape.num_layers)]
    head = float(shape.vocab_size * shape.hidden_size)
    costs[0] += head / 10
    costs[-1] += head
    n = len(costs)
    total = [0.0]
    for cost in costs:
        total.append(total[-1] + cost)
    # best[s][i]: (largest stage, sum of squares) with s stages over the first i layers, and where the last begins
    infinite = (float("inf"), float("inf"))
    best = [[infinite] * (n + 1) for _ in range(pp + 1)]
    cut = [[0] * (n + 1) for _ in range(pp + 1)]
    best[0][0] = (0.0, 0.0)
    for s in range(1, pp + 1):
        for i in range(s, n + 1):
            for j in range(s - 1, i):
                cost = total[i] - total[j]
                candidate = (max(best[s - 1][j][0], cost), best[s - 1][j][1] + cost * cost)
                if candidate < best[s][i]:
                    best[s][i], cut[s][i] = candidate, j
    stages: list[range] = []
    end = n
    for s in range(pp, 0, -1):
        stages.append(range(cut[s][end], end))
        end = cut[s][end]
    return stages[::-1]


def expert_owners(num_experts: int, ep: int) -> list[range]:
    """The consecutive experts that each member of the ep axis owns; the first members own one more when uneven."""
    base, extra = divmod(num_experts, ep)
    starts = [i * base + min(i, extra) for i in range(ep + 1)]
    return [range(starts[i], starts[i + 1]) for i in range(ep)]


def _divisors(n: int) -> list[int]:
    low = [d for d in range(1, isqrt(n) + 1) if n % d == 0]
    return sorted({*low, *(n // d for d in low)})
