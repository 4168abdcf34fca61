"""A rank's place among the others: its layers, its experts, and a communicator for each axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from runtime.checkpoint.config import ModelShape
from runtime.layout import AXES, Coordinates, Layout, expert_owners, stage_layers
from runtime.parallel.communicator import Communicator, DistributedTransport, Transport
from runtime.parallel.device_events import DeviceEvents
from runtime.parallel.segment import plan_segment
from runtime.parallel.shared_memory import SharedMemoryTransport, open_segment
from runtime.rank.board import RankStatus
from runtime.rank.config import RankConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Mesh:
    """Where this rank stands. `layers` and `experts` are those that it owns."""

    layout: Layout
    rank: int
    at: Coordinates
    tp: Communicator
    ep: Communicator
    pp: Communicator
    layers: range
    experts: range
    events: DeviceEvents | None = None  # of the CUDA device

    @property
    def axes(self) -> tuple[Communicator, ...]:
        """Those of more than one member."""
        return tuple(axis for axis in (self.tp, self.ep, self.pp) if axis.size > 1)

    @property
    def first_stage(self) -> bool:
        return self.at.pp == 0

    @property
    def last_stage(self) -> bool:
        return self.at.pp == self.layout.pp - 1


def connect(config: RankConfig, shape: ModelShape, status: RankStatus) -> Mesh:
    """Join the other ranks. Returns once every axis can be used; blocks while a rank is missing."""
    layout = Layout(**config.layout)
    cuda = config.device.startswith("cuda")
    transports: dict[str, Transport | None] = dict.fromkeys(AXES)
    if config.transport == "shm":
        itemsize = DTYPES[config.dtype].itemsize
        places = plan_segment(layout, shape, config.max_num_batched_tokens, config.max_num_seqs, itemsize)
        segment = open_segment(config.segment_fd, places.size)
        for axis in ("tp", "ep", "pp"):
            if getattr(layout, axis) > 1:
                transports[axis] = SharedMemoryTransport(segment, places, layout, config.rank, axis, config.spin)
    elif layout.replica_size > 1:  # replicas need not meet
        dist.init_process_group(
            config.transport,
            store=dist.FileStore(config.store, layout.world_size),  # type: ignore[attr-defined]
            rank=config.rank,
            world_size=layout.world_size,
            device_id=torch.device(config.device) if cuda else None,
        )
        for axis in ("tp", "ep", "pp"):
            if getattr(layout, axis) > 1:
                transports[axis] = _distributed(layout, config.rank, axis)
    at = layout.coordinates(config.rank)
    telling = bool(config.telemetry)
    events = DeviceEvents() if cuda and telling else None

    def communicator(axis: str) -> Communicator:
        return Communicator(axis, getattr(layout, axis), getattr(at, axis), transports[axis], status, events, telling)

    return Mesh(
        layout=layout,
        rank=config.rank,
        at=at,
        tp=communicator("tp"),
        ep=communicator("ep"),
        pp=communicator("pp"),
        layers=stage_layers(shape, layout.pp)[at.pp],
        experts=expert_owners(shape.num_experts, layout.ep)[at.ep],
        events=events,
    )


def _distributed(layout: Layout, rank: int, axis: str) -> DistributedTransport:
    """Every rank creates every group of the axis, in the same order, as torch.distributed asks."""
    mine = None
    seen: set[tuple[int, ...]] = set()
    for other in range(layout.world_size):
        group = layout.group(other, axis)
        if group not in seen:
            seen.add(group)
            made = dist.new_group(list(group))
            if rank in group:
                mine = DistributedTransport(made, group)
    assert mine is not None
    return mine
