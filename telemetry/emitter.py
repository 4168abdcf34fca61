"""How a rank or an engine tells the hub what it measured: never waiting, every loss counted."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import zmq

from telemetry.codec import CodecError, encode_envelope
from telemetry.records import SCHEMA_VERSION, Envelope, Record

HIGH_WATER = 1000  # messages that wait in this process for a hub that does not read; some 300 bytes each
LINGER_MS = 200  # how long an end may wait for the hub to take what was said last


class Emitter:
    """Sends records to the hub's PULL socket at `endpoint`; an empty `endpoint` makes every call a no-op.

    Create it after the fork, in the process that uses it (it owns a ZeroMQ context), and call it from one thread.
    `sender` says who speaks: "rank:3", "engine:0". A message that the full socket refuses is gone; `lost` counts these and
    travels in every later envelope, while `seq` counts the messages that the socket took: the hub sees both kinds of loss apart.
    """

    def __init__(self, endpoint: str, deployment: str, sender: str, *, high_water: int = HIGH_WATER) -> None:
        self.lost = 0
        self._deployment = deployment
        self._sender = sender
        self._boot = time.perf_counter_ns()
        self._seq = 0
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        if endpoint:
            self._context = zmq.Context()
            self._socket = self._context.socket(zmq.PUSH)
            self._socket.sndhwm = high_water
            self._socket.linger = 0
            self._socket.connect(endpoint)

    def emit(self, *records: Record) -> None:
        """Send these records as one message, now or not at all. Never blocks, never raises."""
        if self._socket is None:
            return
        envelope = Envelope(SCHEMA_VERSION, self._deployment, self._sender, self._boot, self._seq, self.lost, list(records))
        try:
            self._socket.send(encode_envelope(envelope), zmq.NOBLOCK)
        except (zmq.ZMQError, CodecError):
            self.lost += 1
        else:
            self._seq += 1

    def close(self) -> None:
        """Close, once the hub has taken what was said last or `LINGER_MS` have passed."""
        if self._context is not None:
            self._context.destroy(linger=LINGER_MS)
        self._socket = self._context = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
