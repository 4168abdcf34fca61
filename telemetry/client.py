"""How a screen or a command line asks the hub for the present state, and knows how old its answer is."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import zmq

from telemetry.codec import MAX_SNAPSHOT, CodecError, decode_snapshot
from telemetry.connection import connected
from telemetry.curve import ViewerKeys
from telemetry.endpoints import REQUEST, is_remote
from telemetry.snapshot import Snapshot

PATIENCE_S = 2.0  # without an answer for so long, the hub is unreachable and the request is made anew


class TelemetryClient:
    """Polls the hub's snapshot endpoint, from one thread.

    One request is under way at a time and the newest answer wins, so a client that slept sees the present and not a queue of
    pasts. A hub that restarts is found again by itself. Over TCP it needs keys: `poll` raises KeyProblem without.
    """

    def __init__(self, endpoint: str, keys: ViewerKeys | None = None) -> None:
        self.snapshot: Snapshot | None = None  # the newest ever received
        self.seq = 0  # the hub's delta after which `snapshot` was taken
        self.refused = 0  # answers that could not be read
        self._endpoint, self._keys = endpoint, keys
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._asked_s: float | None = None  # when the request under way was sent
        self._answered_s: float | None = None

    def poll(self, timeout_s: float = 0.05) -> Snapshot | None:
        """Ask, wait at most so long for an answer, and return the newest snapshot there ever was. 0 never waits: the answer comes
        with the next call."""
        began = time.monotonic()
        if self._asked_s is not None and began - self._asked_s > PATIENCE_S:
            self._disconnect()
        self._receive(0)
        if self._asked_s is None:
            self._ask(began)
        if timeout_s > 0 and self._asked_s is not None:
            self._receive(timeout_s)
        return self.snapshot

    @property
    def age_s(self) -> float | None:
        """How old `snapshot` is by now; `None` before the first. Of another machine, whose clock is not ours: since it came."""
        if self.snapshot is None or self._answered_s is None:
            return None
        if is_remote(self._endpoint):
            return time.monotonic() - self._answered_s
        return max(0, time.perf_counter_ns() - self.snapshot.time_ns) / 1e9

    @property
    def reachable(self) -> bool:
        """Whether the hub answered lately."""
        return self._answered_s is not None and time.monotonic() - self._answered_s < PATIENCE_S

    def close(self) -> None:
        """Close at once; the last snapshot stays."""
        self._disconnect()
        self._context.destroy(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, now_s: float) -> None:
        if self._socket is None:
            self._socket = connected(self._context, zmq.DEALER, self._endpoint, MAX_SNAPSHOT, self._keys)
        try:
            self._socket.send(REQUEST, zmq.NOBLOCK)
        except zmq.ZMQError:
            return
        self._asked_s = now_s

    def _receive(self, timeout_s: float) -> None:
        if self._socket is None or not self._socket.poll(round(timeout_s * 1000)):
            return
        frames: list[bytes] = []
        while self._socket.poll(0):
            frames = self._socket.recv_multipart()
        self._asked_s = None
        try:
            reply = decode_snapshot(frames[-1])
        except CodecError:
            self.refused += 1
            return
        self.snapshot, self.seq = reply.snapshot, reply.seq
        self._answered_s = time.monotonic()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)
        self._socket = self._asked_s = None
