"""Which experts the script's router prefers: always a few, and at times a whole neighbourhood of them."""

from __future__ import annotations

import math
from functools import lru_cache

from runtime.layout import expert_owners
from telemetry.snapshot import ExpertsView

LAYERS, EXPERTS, TOP_K = 48, 128, 8
FAN_OUT = 2  # members of the ep axis that a token's hidden state goes to, about
_HOT_LAYERS = range(28, 34)
_HOT = 70  # this expert, in those layers
_NEIGHBOURS = range(64, 80)  # at times, in all layers


def experts_view(tokens: float, ep: int, hot: bool) -> ExpertsView:
    """`tokens`: that passed each layer in the window."""
    total = tokens * TOP_K
    return ExpertsView(
        layers=tuple(range(LAYERS)),
        owners=tuple(member for member, experts in enumerate(expert_owners(EXPERTS, ep)) for _ in experts),
        tokens=tuple(tuple([int(total * share) for share in row]) for row in _shares(hot)),
    )


@lru_cache(maxsize=32)
def hot_share(ep: int, hot: bool) -> tuple[float, ...]:
    """The share of all tokens that each member of the ep axis computes."""
    rows = _shares(hot)
    return tuple(sum(sum(row[e] for e in experts) for row in rows) / len(rows) for experts in expert_owners(EXPERTS, ep))


@lru_cache(maxsize=2)
def _shares(hot: bool) -> tuple[tuple[float, ...], ...]:
    return tuple(_layer(layer, hot) for layer in range(LAYERS))


def _layer(layer: int, hot: bool) -> tuple[float, ...]:
    weights = [math.exp(0.45 * _noise(layer, expert)) for expert in range(EXPERTS)]
    if hot:
        for expert in _NEIGHBOURS:
            weights[expert] *= 3.5
    if layer in _HOT_LAYERS:
        weights[_HOT] = 5.5
    total = sum(weights)
    return tuple(weight / total for weight in weights)


def _noise(layer: int, expert: int) -> float:
    """-1.7 to 1.7, without a pattern that an eye would see, the same on every machine."""
    mixed = (layer * 2_654_435_761 ^ expert * 40_503 * 65_537) & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 15) * 0x2C1B3C6D & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 12) * 0x297A2D39 & 0xFFFFFFFF
    return 3.4 * ((mixed ^ mixed >> 15) / 0xFFFFFFFF - 0.5)
