"""How long a decode step's parts take on each rank, at a second of the script. Milliseconds."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from runtime.layout import Layout
from tui.demo import story
from tui.demo.experts import hot_share

LAYERS = 48
HIDDEN = 2048
CHUNK = 1024  # prompt tokens of a prefill step
PREFILL_WORK, PREFILL_VOLUME = 2.6, 1.6  # of a prefill step, in decode steps
SEND_MS = 0.12
_COMPUTE = 46.0  # of all layers on one rank
_LEAST = 1.5  # that no sharding makes shorter
_UNEVEN = 0.12  # the later a stage, the more it has to do
_EXPERTS = 0.6  # of the compute that is experts'
_HOST = 0.9
_BUSY_HOST = 7.5


class Pace(NamedTuple):
    """One rank's. `work` and `volume` of a step stretch compute and waits, and transfers."""

    compute: float
    tp_wait: float
    tp_transfer: float
    ep_wait: float
    ep_transfer: float
    send: float
    host: float

    def step(self, work: float, volume: float) -> float:
        """Without host time and without waiting for the previous stage."""
        return work * (self.compute + self.tp_wait + self.ep_wait) + volume * (self.tp_transfer + self.ep_transfer) + self.send


def stage_layers(layout: Layout) -> int:
    return max(1, LAYERS // layout.pp)


def all_reduces(layout: Layout) -> int:
    """Calls a step: after attention and after the experts of each layer."""
    return 2 * stage_layers(layout) if layout.tp > 1 else 0


def all_to_alls(layout: Layout) -> int:
    """Calls a step: dispatch and combine of each layer."""
    return 2 * stage_layers(layout) if layout.ep > 1 else 0


@lru_cache(maxsize=512)
def paces(second: int, layout: Layout) -> tuple[Pace, ...]:
    """By rank, at that second of the script."""
    compute = [_compute(rank, layout, second) for rank in range(layout.world_size)]
    host = _BUSY_HOST if story.during("host", second) else _HOST
    tp_transfer = 1e-3 * all_reduces(layout) * (20 + 7.5 * layout.tp)
    ep_transfer = 1e-3 * all_to_alls(layout) * (26 + 5.0 * layout.ep)
    found: list[Pace] = []
    for rank, own in enumerate(compute):
        slowest = max(compute[peer] for peer in layout.group(rank, "tp"))
        last = max(compute[peer] for ep in layout.group(rank, "ep") for peer in layout.group(ep, "tp"))
        tp_wait = slowest - own + 0.3 if layout.tp > 1 else 0.0
        ep_wait = last - slowest + 0.2 if layout.ep > 1 else 0.0
        send = SEND_MS if layout.coordinates(rank).pp < layout.pp - 1 else 0.0
        found.append(Pace(own, tp_wait, tp_transfer, ep_wait, ep_transfer, send, host))
    return tuple(found)


def _compute(rank: int, layout: Layout, second: int) -> float:
    at = layout.coordinates(rank)
    each = (_LEAST + _COMPUTE / layout.tp / layout.pp) * (1 + _UNEVEN * at.pp) * (0.82 + 0.2 * story.load(second))
    if layout.ep > 1:
        share = hot_share(layout.ep, story.hot_experts(second))[at.ep]
        each *= 1 - _EXPERTS + _EXPERTS * share * layout.ep
    if rank == story.LATE_RANK and story.during("late", second):
        each *= story.LATE
    if rank == story.HOT_RANK % layout.world_size and story.during("throttled", second):
        each *= story.THROTTLED
    return each
