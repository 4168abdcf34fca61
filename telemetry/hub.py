"""The hub: takes every rank's and engine's records in the daemon, folds them, and hands out snapshots and deltas.

Three sockets: PULL takes envelopes; XPUB sends each on as a delta, while somebody listens; ROUTER answers "snapshot" with the
state after delta n, so that a reader takes a snapshot and then the deltas beyond n. None of them waits for anybody: a reader that
stops loses deltas, which their numbers tell it, and the hub holds a bounded amount for it. For viewers on other machines the
latter two listen on TCP too, encrypted, and only to whom a list of keys allows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self, cast

import msgspec
import zmq

from telemetry.codec import MAX_MESSAGE, CodecError, decode_envelope, encode_envelope, encode_snapshot
from telemetry.curve import ZAP_ENDPOINT, HubKeys, KeyProblem
from telemetry.endpoints import REQUEST, HubEndpoints, is_remote
from telemetry.fold import Fold
from telemetry.keyframe import Keyframe
from telemetry.records import SCHEMA_VERSION, Envelope, Record
from telemetry.snapshot import Snapshot

BATCH = 200  # messages taken before the daemon's other tasks have their turn
RECORDS_HELD = 1000  # of one sender, not taken yet; its own socket holds as many
DELTAS_HELD = 10_000  # for one subscriber that does not read
ANSWERS_HELD = 2  # for one asker that does not read; megabytes each when ranks are many
_DENIALS = (
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_AUTH
)  # fmt: skip
_ALL, _NO_MORE = b"\1", b"\0"  # what XPUB reads when somebody begins, or ends, to listen to everything
SNAPSHOT_AGE_NS = 20_000_000  # a snapshot this young answers the next request too, so asking often costs little
SNAPSHOT_SHARE = 2  # so does one younger than so many times what it took to make: they never take more than a third of the time

log = logging.getLogger(__name__)


class EndpointTaken(Exception):
    """A public endpoint cannot be bound; the message names it and says why."""


class Delta(NamedTuple):
    """One envelope as the hub took it: the `seq`-th, at `arrived_ns` of CLOCK_MONOTONIC, in its bytes `raw` and decoded."""

    seq: int
    arrived_ns: int
    raw: bytes
    envelope: Envelope


Subscriber = Callable[[Delta], None]


class Public(NamedTuple):
    """Where viewers on other machines find the hub, and by which keys."""

    endpoints: HubEndpoints
    keys: HubKeys


class Hub:
    """Owned by the daemon's event loop, on which every method is called. `async with`, or `start` and `close`."""

    def __init__(self, endpoints: HubEndpoints, window_s: float = 10.0, public: Public | None = None) -> None:
        """Raises KeyProblem for `endpoints` that others can reach: these are `public`'s."""
        if any(map(is_remote, endpoints)):
            raise KeyProblem(f"{', '.join(endpoints)}: telemetry leaves this machine only with keys")
        self.endpoints = endpoints
        self.denied = 0  # connections from other machines whose key is not on the list
        self._public = public
        self.seq = 0  # deltas so far
        self.readers = 0  # who listen to all deltas now
        self._fold = Fold(window_s)
        self._boot = time.perf_counter_ns()
        self._own_seq: dict[str, int] = {}  # by deployment, of the records that the daemon injects
        self._subscribers: list[Subscriber] = []
        self._reply: tuple[int, bytes] = (0, b"")  # (good until when, encoded)
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._readers: list[_Reader] = []

    def start(self) -> None:
        """Bind the sockets and serve them on the running loop.

        Raises zmq.ZMQError when an endpoint cannot be bound, EndpointTaken when a public one cannot.
        """
        self._context = zmq.Context()
        pull = self._bind(zmq.PULL, self.endpoints.records, RECORDS_HELD)
        self._deltas = self._bind(zmq.XPUB, self.endpoints.deltas, DELTAS_HELD)
        self._deltas.setsockopt(
            zmq.XPUB_VERBOSER, 1
        )  # every reader's coming and going is told, not only the first's and the last's
        self._router = self._bind(zmq.ROUTER, self.endpoints.snapshots, ANSWERS_HELD)
        self._subscriptions = _Reader(self._deltas, self._on_subscription)
        self._readers = [_Reader(pull, self._on_message), _Reader(self._router, self._on_request), self._subscriptions]
        if self._public is not None:
            self._open(self._public)

    def _open(self, public: Public) -> None:
        """Let the two sockets that tell listen on TCP too; what is set now holds for what is bound now."""
        assert self._context is not None
        self._door = self._context.socket(zmq.REP)
        self._door.bind(ZAP_ENDPOINT)
        self._readers.append(_Reader(self._door, self._on_arrival))
        for socket, endpoint in ((self._deltas, public.endpoints.deltas), (self._router, public.endpoints.snapshots)):
            self._readers.append(_Reader(socket.get_monitor_socket(_DENIALS), self._on_denial))
            public.keys.protect(socket)
            try:
                socket.bind(endpoint)
            except zmq.ZMQError as error:
                self.close()
                raise EndpointTaken(f"cannot serve telemetry at {endpoint}: {error.strerror}") from error

    def close(self) -> None:
        """Stop serving. What peers have not read is dropped."""
        for reader in self._readers:
            reader.close()
        if self._context is not None:
            self._context.destroy(linger=0)
        self._readers, self._context = [], None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def inject(self, records: Sequence[Record], deployment: str = "") -> None:
        """Take the daemon's own records. `deployment` is whose ranks step, memory and device records speak of."""
        seq = self._own_seq.get(deployment, 0)
        self._own_seq[deployment] = seq + 1
        envelope = Envelope(SCHEMA_VERSION, deployment, "daemon", self._boot, seq, 0, list(records))
        try:
            raw = encode_envelope(envelope)
        except CodecError as error:
            self._fold.refused += 1
            log.error("records of the daemon's own are refused: %s", error)
        else:
            self._accept(raw, envelope)

    def snapshot(self, now_ns: int | None = None) -> Snapshot:
        """The state now, or at a given CLOCK_MONOTONIC time."""
        snapshot = self._fold.snapshot(time.perf_counter_ns() if now_ns is None else now_ns)
        return msgspec.structs.replace(snapshot, readers=self.readers)

    def keyframe(self) -> Keyframe:
        """The whole state now, which a recording that begins now has to hold first: see `Fold.keyframe`."""
        return self._fold.keyframe(time.perf_counter_ns())

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with every delta from now on, on the loop. Returns what ends it. One that raises is dropped."""
        self._subscribers.append(subscriber)
        return lambda: self._unsubscribe(subscriber)

    def _unsubscribe(self, subscriber: Subscriber) -> None:
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)

    def _bind(self, kind: int, endpoint: str, high_water: int) -> zmq.Socket[bytes]:
        assert self._context is not None
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        socket.sndhwm = socket.rcvhwm = high_water
        socket.linger = 0
        socket.bind(endpoint)
        return socket

    def _on_arrival(self, request: list[bytes]) -> None:
        assert self._public is not None
        self._door.send_multipart(self._public.keys.answer(request))

    def _on_denial(self, _event: list[bytes]) -> None:
        self.denied += 1
        if self.denied.bit_count() == 1:  # who is refused tries again, and again
            log.warning("refused %d connections to telemetry: no key, or none on the list", self.denied)

    def _on_message(self, frames: list[bytes]) -> None:
        try:
            if len(frames) != 1:
                raise CodecError(f"a message of {len(frames)} frames")
            envelope = decode_envelope(frames[0])
        except CodecError as error:
            self._fold.refused += 1
            log.debug("refused a message: %s", error)
        else:
            self._accept(frames[0], envelope)

    def _accept(self, raw: bytes, envelope: Envelope) -> None:
        arrived_ns = time.perf_counter_ns()
        self.seq += 1
        self._fold.add(envelope, arrived_ns)
        if self._context is not None and self.readers:
            with suppress(zmq.ZMQError):  # XPUB drops for slow readers by itself; their next delta's number tells them
                self._deltas.send_multipart((self.seq.to_bytes(8, "big"), raw), zmq.NOBLOCK)
            if cast(int, self._deltas.events) & zmq.POLLIN:  # sending may have taken in a subscription, and its notice with it
                self._subscriptions.read()
        delta = Delta(self.seq, arrived_ns, raw, envelope)
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(delta)
            except Exception:
                log.exception("a telemetry subscriber failed and is dropped")
                self._unsubscribe(subscriber)

    def _on_subscription(self, frames: list[bytes]) -> None:
        if frames[0] in (_ALL, _NO_MORE):  # a delta begins with its number: who listens to something else hears nothing
            self.readers = max(0, self.readers + (1 if frames[0] == _ALL else -1))

    def _on_request(self, frames: list[bytes]) -> None:
        if frames[-1] != REQUEST:
            self._fold.refused += 1
            return
        now_ns = time.perf_counter_ns()
        if now_ns >= self._reply[0]:
            began_ns = time.thread_time_ns()
            try:
                encoded = encode_snapshot(self.seq, self.snapshot(now_ns))
            except CodecError as error:
                log.error("no snapshot: %s", error)
                return
            took_ns = time.thread_time_ns() - began_ns
            self._reply = now_ns + max(SNAPSHOT_AGE_NS, (1 + SNAPSHOT_SHARE) * took_ns), encoded
        try:
            self._router.send_multipart((*frames[:-1], self._reply[1]), zmq.NOBLOCK)
        except zmq.ZMQError:
            pass  # the asker is gone or does not read


class _Reader:
    """Calls `on_message` with every message of a socket, from the loop, `BATCH` at a time.

    A socket's file descriptor tells of a change once: whoever reads it must read until nothing is left, or come back unasked.
    Reading it so, without a future for each message, is several times cheaper than zmq.asyncio.
    """

    def __init__(self, socket: zmq.Socket[bytes], on_message: Callable[[list[bytes]], None]) -> None:
        self._socket = socket
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._loop.add_reader(socket, self.read)
        self.read()

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        if self._again is not None:
            self._again.cancel()

    def read(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        for _ in range(BATCH):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._on_message(frames)
            except Exception:  # one message must not end the reading of all others
                log.exception("a message broke its handler")
        self._again = self._loop.call_soon(self.read)
