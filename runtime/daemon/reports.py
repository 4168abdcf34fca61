"""What a supervisor tells the telemetry hub of its deployment: state, events, processes. And who waits for news of it."""

from __future__ import annotations

import asyncio
import signal
import time

import msgspec

from runtime.daemon.blame import RankFailure, name
from runtime.daemon.launcher import RankGroup
from runtime.daemon.peaks import device_peaks
from runtime.daemon.settle import Placement
from runtime.spec import DeploymentSpec
from telemetry.devices import DeviceProbe
from telemetry.hub import Hub
from telemetry.records import DeploymentRecord, DeviceRecord, EventRecord

DEVICES_EVERY_S = 1.0


class Reports:
    """`last`: the newest record of the deployment's state."""

    def __init__(self, hub: Hub, spec: DeploymentSpec, placement: Placement) -> None:
        self.last: DeploymentRecord | None = None
        self._hub = hub
        self._news = asyncio.Event()
        self._probe = DeviceProbe()
        self.adopt(spec, placement)
        self._phase = (0, "")  # of which generation
        self._phase_ns = 0

    async def next(self, after: DeploymentRecord | None) -> DeploymentRecord:
        while self.last is None or self.last is after:
            await self._news.wait()
        return self.last

    def state(self, state: str, generation: int, reason: str, group: RankGroup | None) -> None:
        """A new state: a record of it, and an event."""
        self._announce(self._record(state, generation, reason, group))
        severity = {"FAILED": "error", "RESTARTING": "warning"}.get(state, "info")
        self.event(generation, severity, "state", f"{state}{': ' + reason if reason else ''}")

    def adopt(self, spec: DeploymentSpec, placement: Placement) -> None:
        """From now on it is told of these."""
        self._spec, self._placement, self._peaks = spec, placement, device_peaks(placement)

    def chosen(self, generation: int) -> None:
        """What the launcher settled of what the operator left open."""
        self.event(generation, "info", "launch", f"{self._spec.layout}: {self._placement}")

    def progress(self, state: str, generation: int, reason: str, group: RankGroup | None, phase: str) -> None:
        """Where a start is; told when it is somewhere else than before."""
        record = self._record(state, generation, reason, group, phase)
        if self.last is None or msgspec.structs.replace(self.last, time_ns=0) != msgspec.structs.replace(record, time_ns=0):
            self._announce(record)

    def failure(self, generation: int, failure: RankFailure) -> None:
        words = f"{failure}\n{failure.last_words}".strip()
        self.event(generation, "error", failure.kind, words, failure.rank)

    def event(self, generation: int, severity: str, kind: str, text: str, rank: int | None = None) -> None:
        self._inject(EventRecord(self._spec.name, generation, time.perf_counter_ns(), severity, kind, text, rank))

    def suspensions(self, group: RankGroup) -> None:
        """Which ranks signals stopped, or let go on, and when."""
        for told in group.take_suspensions():
            severity, kind, what = "info", "resumed", "goes on"
            if told.signal:
                severity, kind, what = "warning", "suspended", f"is stopped by {signal.Signals(told.signal).name}"
            words = f"{name(told.rank, group.layout)} {what}"
            self._inject(EventRecord(self._spec.name, group.generation, told.time_ns, severity, kind, words, told.rank))

    def capacity(self, group: RankGroup) -> None:
        """How much the cache holds, once loaded."""
        tokens = group.kv_blocks * self._spec.block_size
        limit = f"rank {group.limiting_rank} has room for the fewest" if self._spec.layout.world_size > 1 else ""
        words = f"{group.kv_blocks} KV blocks hold {tokens} tokens{'; ' if limit else ''}{limit}"
        self.event(group.generation, "info", "kv", words, group.limiting_rank)

    async def watch_devices(self, group: RankGroup) -> None:
        """Tell of the ranks' processes and devices every second, until cancelled."""

        def probe() -> list[DeviceRecord]:
            return [self._probe.probe(info.rank, group.generation, info.pid, info.device) for info in group.ranks]

        while True:
            self._inject(*await asyncio.to_thread(probe))
            await asyncio.sleep(DEVICES_EVERY_S)

    def _record(self, state: str, generation: int, reason: str, group: RankGroup | None, phase: str = "") -> DeploymentRecord:
        now = time.perf_counter_ns()
        if self._phase != (generation, phase):
            self._phase, self._phase_ns = (generation, phase), now
        loaded, to_load = (group.loading if group and phase else None) or (None, None)
        return DeploymentRecord(
            deployment=self._spec.name,
            generation=generation,
            time_ns=now,
            state=state,
            model=str(self._spec.model),
            layout=self._spec.layout.asdict(),
            device=self._placement.device,
            dtype=self._placement.dtype,
            emulated=self._placement.emulated,
            ranks=group.ranks if group else [],
            phase=phase,
            progress=group.progress if group and phase else None,
            reason=reason,
            loaded=loaded,
            to_load=to_load,
            phase_ns=self._phase_ns if phase else None,
            peaks=self._peaks,
        )

    def _announce(self, record: DeploymentRecord) -> None:
        self.last = record
        self._inject(record)
        self._news.set()
        self._news.clear()

    def _inject(self, *records: DeploymentRecord | EventRecord | DeviceRecord) -> None:
        self._hub.inject(records, self._spec.name)
