"""What the daemon lends to each of its deployments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq.asyncio

from runtime.rank.nursery import Zygote
from telemetry.hub import Hub

DRAIN_S = 10.0


@dataclass(frozen=True)
class House:
    """`sockets` holds the deployments' ipc files: its path is short."""

    context: zmq.asyncio.Context
    hub: Hub
    zygote: Callable[[], Zygote]
    sockets: Path
    logs: Path
    drain_s: float = DRAIN_S
