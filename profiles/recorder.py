"""Records a deployment beside a running hub, in a thread: a slow disk holds up neither telemetry nor tokens."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from profiles.provenance import Provenance
from profiles.recording import Policy, Recording
from profiles.report import RecordingProgress, RecordingReport
from telemetry.hub import Delta, Hub

TICK_S = 0.25
HELD = 20_000  # envelopes that wait for a slow disk; beyond, some are lost, and replay as lost

OnEnd = Callable[[RecordingReport], None]


class Recorder:
    """Begins when made, on the hub's event loop; ends with `stop`, or by itself when the disk fails, and then says so."""

    def __init__(self, hub: Hub, path: Path, provenance: Provenance, on_end: OnEnd, policy: Policy | None = None) -> None:
        """`on_end` is called once, from the recorder's thread. Raises OSError when the file cannot be begun."""
        self.deployment = provenance.deployment
        self.path = path
        self._on_end = on_end
        self._began_s = time.monotonic()
        self._dropped = 0
        self._queue: queue.Queue[Delta] = queue.Queue(HELD)
        self._stopping = threading.Event()
        self._attachments: dict[str, bytes] = {}
        self._recording = Recording(path, provenance, hub.keyframe(), policy)
        self._size = 0
        self._unsubscribe = hub.subscribe(self._take)
        self._thread = threading.Thread(target=self._run, name=f"record {self.deployment}", daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began_s

    @property
    def progress(self) -> RecordingProgress:
        return RecordingProgress(self.deployment, str(self.path), self._size, self.seconds)

    def stop(self, attachments: Mapping[str, bytes] | None = None) -> None:
        """Take nothing more, write what came and the JSON documents by name, finish. Returns at once: `on_end` tells of the end.
        On the hub's loop; only the first time counts."""
        self._unsubscribe()
        if attachments and not self._stopping.is_set():
            self._attachments = dict(attachments)
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        """Wait until it has ended, at most so long."""
        self._thread.join(timeout_s)

    def _take(self, delta: Delta) -> None:
        if delta.envelope.deployment != self.deployment or self._stopping.is_set():
            return
        try:
            self._queue.put_nowait(delta)
        except queue.Full:
            self._dropped += 1

    def _run(self) -> None:
        error = ""
        try:
            self._record()
            for name, data in self._attachments.items():
                self._recording.attach(name, data)
            self._recording.finish()
        except Exception as failure:  # whatever it is, the daemon serves on, and says it
            self._stopping.set()
            self._recording.abandon()
            error = getattr(failure, "strerror", None) or f"{type(failure).__name__}: {failure}"
        done = self._recording
        files, unfinished = [str(path) for path in done.files], str(done.writing) if error else ""
        self._on_end(
            RecordingReport(self.deployment, files, done.messages, done.bytes, self.seconds, self._dropped, error, unfinished)
        )

    def _record(self) -> None:
        while True:
            try:
                delta = self._queue.get(timeout=TICK_S)
            except queue.Empty:
                if self._stopping.is_set():
                    return
            else:
                self._recording.add(delta.arrived_ns, delta.envelope, delta.raw)
            self._recording.tick(time.perf_counter_ns())
            self._size = self._recording.size
