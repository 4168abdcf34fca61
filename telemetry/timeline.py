"""The steps of the last seconds, all ranks, as they happen: what a timeline of stages is drawn from.

Snapshots hold sums. Who draws single steps listens to the hub's deltas, and only while somebody looks.
"""

from __future__ import annotations

import time
from collections import deque

import zmq

from telemetry.codec import MAX_MESSAGE, CodecError, decode_envelope
from telemetry.connection import connected
from telemetry.curve import ViewerKeys
from telemetry.records import Envelope, StepRecord
from telemetry.series import SECOND

SPAN_NS = 3 * SECOND
MAX_STEPS = 16_384  # of one deployment
MAX_DEPLOYMENTS = 64
WANTED_S = 2.0  # after it was asked for last, nobody listens any more
HELD = 20_000  # deltas that wait for a poll
BATCH = 20_000  # deltas taken at one poll


class StepWindow:
    """The steps of one deployment that ended in the last `SPAN_NS`, of its latest generation, at most `MAX_STEPS`."""

    def __init__(self) -> None:
        self._steps: deque[StepRecord] = deque(maxlen=MAX_STEPS)
        self._generation = -1
        self._newest_ns = 0

    def add(self, step: StepRecord) -> None:
        if step.generation != self._generation:
            if step.generation < self._generation:
                return
            self._generation, self._newest_ns = step.generation, 0
            self._steps.clear()
        self._steps.append(step)
        self._newest_ns = max(self._newest_ns, _end(step))
        while _end(self._steps[0]) <= self._newest_ns - SPAN_NS:
            self._steps.popleft()

    def steps(self) -> tuple[StepRecord, ...]:
        """Oldest first: by their ends, then by rank."""
        shown = [step for step in self._steps if _end(step) > self._newest_ns - SPAN_NS]
        return tuple(sorted(shown, key=lambda step: (_end(step), step.rank)))


class StepClient:
    """Listens to a hub's deltas for as long as somebody wants steps: `want` from any thread, the rest from one."""

    def __init__(self, endpoint: str, keys: ViewerKeys | None = None) -> None:
        self.missed = 0  # deltas that the hub sent and that did not come
        self._endpoint, self._keys = endpoint, keys
        self._wanted_s: dict[str, float] = {}  # when each was asked for last
        self._windows: dict[str, StepWindow] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._next = 0

    @property
    def listening(self) -> bool:
        return self._socket is not None

    def want(self, deployment: str) -> None:
        """Keep its steps for the next `WANTED_S`."""
        self._wanted_s[deployment] = time.monotonic()

    def poll(self) -> dict[str, tuple[StepRecord, ...]]:
        """Take what came, never waiting: the steps of each deployment that is wanted."""
        now_s = time.monotonic()
        wanted = {name for name, asked_s in tuple(self._wanted_s.items()) if now_s - asked_s < WANTED_S}
        if not wanted:
            self.close()
            return {}
        self._windows = {name: self._windows.get(name) or StepWindow() for name in sorted(wanted)[:MAX_DEPLOYMENTS]}
        self._listen()
        return {name: window.steps() for name, window in self._windows.items()}

    def close(self) -> None:
        """Listen no more; what is wanted later is listened to anew."""
        if self._context is not None:
            self._context.destroy(linger=0)
        self._context = self._socket = None
        self._wanted_s.clear()
        self._windows.clear()
        self._next = 0

    def _listen(self) -> None:
        if self._socket is None:
            self._context = zmq.Context()
            self._socket = connected(self._context, zmq.SUB, self._endpoint, MAX_MESSAGE + 1, self._keys, high_water=HELD)
            self._socket.subscribe(b"")
        for _ in range(BATCH):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
                number, envelope = int.from_bytes(frames[0], "big"), decode_envelope(frames[-1])
            except zmq.Again:
                return
            except CodecError:
                continue
            self.missed += max(0, number - self._next) if self._next else 0
            self._next = number + 1
            self._take(envelope)

    def _take(self, envelope: Envelope) -> None:
        window = self._windows.get(envelope.deployment)
        if window is not None:
            for record in envelope.records:
                if isinstance(record, StepRecord):
                    window.add(record)


def _end(step: StepRecord) -> int:
    return step.start_ns + step.wall_ns
