"""How the shared-memory segment of a deployment is divided. Torch-free: the launcher sizes it, ranks map it.

Every group of an axis has a *station*: a line of flags and two banks of one slot a member, used in turn. Every pair of
neighbouring stages has a *channel*: a ring of slots, written by one rank and read by one. The file is sparse: a page that nobody
touches takes no memory.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from runtime.checkpoint.config import ModelShape
from runtime.layout import Layout

PAGE = 4096
LINE = 64  # a cache line for each flag: a writer never disturbs its neighbours' readers
BANKS = 2


@dataclass(frozen=True)
class Region:
    """A part of the segment. `slots` slots of `slot_bytes` begin at `data`, after the flags at `offset`. All in bytes."""

    offset: int
    slots: int
    slot_bytes: int

    @property
    def data(self) -> int:
        return self.offset + PAGE

    @property
    def end(self) -> int:
        return self.data + self.slots * self.slot_bytes


@dataclass(frozen=True)
class SegmentMap:
    """Where every station and channel of a layout lies. `channels[(a, b)]` carries rank a's messages to rank b."""

    stations: dict[tuple[int, ...], Region]
    channels: dict[tuple[int, int], Region]
    size: int


def map_segment(layout: Layout, slot_bytes: int, channel_bytes: int, channel_slots: int) -> SegmentMap:
    """Divide a segment for a layout. `slot_bytes`: the largest message of a collective; `channel_bytes`: of a send."""
    slot_bytes = -(-slot_bytes // PAGE) * PAGE
    channel_bytes = -(-channel_bytes // PAGE) * PAGE
    stations: dict[tuple[int, ...], Region] = {}
    channels: dict[tuple[int, int], Region] = {}
    offset = 0
    for rank in range(layout.world_size):
        for axis in ("tp", "ep"):
            group = layout.group(rank, axis)
            if len(group) > 1 and group not in stations:
                stations[group] = Region(offset, BANKS * len(group), slot_bytes)
                offset = stations[group].end
        stages = layout.group(rank, "pp")
        if stages[0] == rank:
            for pair in itertools.pairwise(stages):
                channels[pair] = Region(offset, channel_slots, channel_bytes)
                offset = channels[pair].end
    return SegmentMap(stations, channels, max(offset, PAGE))


def plan_segment(layout: Layout, shape: ModelShape, tokens: int, sequences: int, itemsize: int) -> SegmentMap:
    """The segment of a deployment. `tokens` and `sequences`: the most in one step of one ep member; `itemsize`: of the dtype."""
    tokens = max(tokens, sequences)
    hidden = tokens * shape.hidden_size * itemsize
    dispatch = 0
    if shape.num_experts:
        # a member may get every token of all members, and sends their results back as one message
        dispatch = layout.ep * shape.experts_per_token * hidden + 8 * shape.num_experts + PAGE
    logits = sequences * -(-shape.vocab_size // layout.tp) * 4
    return map_segment(layout, max(hidden, dispatch, logits), hidden, channel_slots=2 * layout.pp)
