"""How a viewer's sockets are connected."""

from __future__ import annotations

import zmq

from telemetry.curve import KeyProblem, ViewerKeys
from telemetry.endpoints import is_remote


def connected(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    endpoint: str,
    largest: int,
    keys: ViewerKeys | None = None,
    high_water: int | None = None,
) -> zmq.Socket[bytes]:
    """A socket to the hub, which takes messages of at most `largest` bytes. Raises KeyProblem for TCP without keys."""
    if is_remote(endpoint) and keys is None:
        raise KeyProblem(f"{endpoint} wants keys: telemetry leaves a machine only encrypted; give --curve-keys DIR")
    socket = context.socket(kind)
    socket.setsockopt(zmq.MAXMSGSIZE, largest)
    socket.linger = 0
    if high_water is not None:
        socket.rcvhwm = high_water
    if keys is not None and is_remote(endpoint):
        keys.protect(socket)
        socket.heartbeat_ivl, socket.heartbeat_timeout = 1000, 3000  # a cut cable is noticed
    socket.connect(endpoint)
    return socket
