"""Where the hub listens, and what is said to it there: all that its peers need to know of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

REQUEST = b"snapshot"  # asks the snapshots socket for the present state


class HubEndpoints(NamedTuple):
    """ZeroMQ endpoints: records come in (PULL), deltas (PUB) and snapshots (ROUTER) go out."""

    records: str
    deltas: str
    snapshots: str

    @classmethod
    def under(cls, run_dir: Path) -> Self:
        """ipc sockets in a directory that its owner keeps at 0700 and locked."""
        return cls(*(f"ipc://{run_dir / name}" for name in ("telemetry", "deltas", "snapshots")))
