"""The daemon's recordings: one at a time of each deployment. They end when told, when their time is over, with their deployment,
or when the disk is full; each end is an event, and a closed client ends none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from profiles import provenance
from profiles.recorder import Recorder
from profiles.recording import Policy
from profiles.report import RecordingProgress, RecordingReport
from runtime.spec import DeploymentSpec
from telemetry.hub import Hub
from telemetry.records import DeploymentRecord, EventRecord

LAST_S = 0.25  # ranks that rest tell what they have counted within a tenth of a second
GRACE_S = 10.0  # to write what has come, when the daemon ends


class Recordings:
    """On the daemon's event loop."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._starting: set[str] = set()
        self._stopping: set[str] = set()
        self._recorders: dict[str, Recorder] = {}
        self._reports: dict[str, asyncio.Future[RecordingReport]] = {}
        self._generations: dict[str, int] = {}

    async def start(
        self, spec: DeploymentSpec, record: DeploymentRecord, path: Path, seconds: float | None, policy: Policy | None = None
    ) -> None:
        """Record to `path`, for so many seconds or until `stop`. Raises ValueError when it is recorded already, and OSError."""
        name = record.deployment
        if name in self._starting or name in self._reports:
            raise ValueError(f"'{name}' is being recorded already")
        self._starting.add(name)
        try:
            settings = spec.model_dump(mode="json", exclude={"model", "name", "dtype", "device", *record.layout})
            told = await asyncio.to_thread(provenance.gather, record, settings, self._hub.snapshot().window_s)
            report: asyncio.Future[RecordingReport] = self._loop.create_future()

            def on_end(ended: RecordingReport) -> None:
                self._loop.call_soon_threadsafe(self._ended, ended, report)

            self._recorders[name] = Recorder(self._hub, path, told, on_end, policy)
        finally:
            self._starting.discard(name)
        self._reports[name] = report
        self._generations[name] = record.generation
        self._tell(name, "info", f"recording to {path}")
        if seconds is not None:
            timer = self._loop.call_later(seconds, self.stop, name)
            report.add_done_callback(lambda _: timer.cancel())

    def under_way(self) -> list[RecordingProgress]:
        return [recorder.progress for recorder in self._recorders.values()]

    async def over(self, name: str) -> RecordingReport:
        """Wait for the end of a recording that was started. Raises ValueError when there is none."""
        if name not in self._reports:
            raise ValueError(f"'{name}' is not being recorded")
        return await asyncio.shield(self._reports[name])

    def stop(self, name: str, attachments: Mapping[str, bytes] | None = None) -> None:
        """End it, if there is one, with JSON documents in it, once it has what ranks said last; `over` tells when it is whole."""
        if name in self._recorders and name not in self._stopping:
            self._stopping.add(name)
            self._loop.call_later(LAST_S, self._recorders[name].stop, attachments)

    async def close(self) -> None:
        """End all, and wait until their files are whole."""
        pending = list(self._reports.values())
        for name in list(self._recorders):
            self.stop(name)
        if pending:
            await asyncio.wait(pending, timeout=GRACE_S)

    def _ended(self, report: RecordingReport, told: asyncio.Future[RecordingReport]) -> None:
        name = report.deployment
        self._recorders.pop(name).stop()
        self._stopping.discard(name)
        del self._reports[name]
        told.set_result(report)
        self._tell(name, "error" if report.error else "info", report.words)

    def _tell(self, name: str, severity: str, text: str) -> None:
        event = EventRecord(name, self._generations[name], time.perf_counter_ns(), severity, "recording", text)
        self._hub.inject([event], name)
