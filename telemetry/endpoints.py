"""Where the hub listens, and what is said to it there: all that its peers need to know of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

REQUEST = b"snapshot"  # asks the snapshots socket for the present state


class HubEndpoints(NamedTuple):
    """ZeroMQ endpoints: records come in (PULL), deltas (XPUB) and snapshots (ROUTER) go out."""

    records: str
    deltas: str
    snapshots: str

    @classmethod
    def under(cls, run_dir: Path) -> Self:
        """ipc sockets in a directory that its owner keeps at 0700 and locked."""
        return cls(*(f"ipc://{run_dir / name}" for name in ("telemetry", "deltas", "snapshots")))

    @classmethod
    def public(cls, address: str) -> Self:
        """`tcp://HOST:PORT`, snapshots there and deltas at the port after it, and no way in for records. Raises ValueError."""
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        if not address.startswith("tcp://") or not host or not port.isdigit() or not 0 < int(port) < 65535:
            raise ValueError(f"'{address}' is no address for telemetry: write tcp://HOST:PORT, as tcp://10.0.0.5:5600")
        return cls("", f"tcp://{host}:{int(port) + 1}", address)


def is_remote(endpoint: str) -> bool:
    """Whether others than this machine's own user can reach it: only with keys."""
    return not endpoint.startswith(("ipc://", "inproc://"))
