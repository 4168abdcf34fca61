"""Where snapshots come from: one protocol for live, scripted and replayed data. Screens cannot tell which it is."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from telemetry.client import PATIENCE_S, TelemetryClient
from telemetry.curve import ViewerKeys
from telemetry.endpoints import HubEndpoints, is_remote
from telemetry.records import StepRecord
from telemetry.snapshot import Snapshot
from telemetry.timeline import StepClient

_PERIOD_S = 0.2  # the screen draws four times a second
_ANSWER_S = 0.1
_RETRY_S = 0.5


class Source(Protocol):
    """`name` is shown on every screen. `latest` never blocks and gives the very same object until there is a newer one."""

    @property
    def name(self) -> str: ...

    @property
    def problem(self) -> str:
        """Why nothing new arrives; empty when all is well."""
        ...

    def start(self) -> None: ...

    def latest(self) -> Snapshot | None: ...

    def age(self) -> float | None:
        """Seconds since what the latest snapshot shows; `None` before the first."""
        ...

    def timeline(self, deployment: str) -> tuple[StepRecord, ...]:
        """The steps of the last three seconds or so, all ranks, oldest first; the first call may find none yet."""
        ...

    def close(self) -> None: ...


class LiveSource:
    """Polls the daemon's telemetry hub in a thread of its own, which writes one slot that the screen reads at its own pace.

    A slow screen thus never holds up collection, and never works through a backlog. The daemon may go and come back while
    the dashboard stays: the client finds it again, and until then the last values are kept. Single steps are listened to only
    while somebody asks for them. With `keys` the daemon may be on another machine.
    """

    def __init__(self, endpoints: HubEndpoints, keys: ViewerKeys | None = None) -> None:
        self.name = f"live {endpoints.snapshots.removeprefix('tcp://')}" if is_remote(endpoints.snapshots) else "live"
        self._endpoints, self._keys = endpoints, keys
        self._latest: Snapshot | None = None
        self._came_s = 0.0  # when it came
        self._stepping = StepClient(endpoints.deltas, keys)
        self._steps: dict[str, tuple[StepRecord, ...]] = {}
        self._problem = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._collect, name="telemetry", daemon=True)

    @property
    def problem(self) -> str:
        return self._problem

    def start(self) -> None:
        self._thread.start()

    def latest(self) -> Snapshot | None:
        return self._latest

    def age(self) -> float | None:
        """By the snapshot's own time; of another machine, whose clock is not ours, since it came."""
        latest = self._latest
        if latest is None:
            return None
        if is_remote(self._endpoints.snapshots):
            return time.monotonic() - self._came_s
        return max(0, time.perf_counter_ns() - latest.time_ns) / 1e9

    def timeline(self, deployment: str) -> tuple[StepRecord, ...]:
        self._stepping.want(deployment)
        return self._steps.get(deployment, ())

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _collect(self) -> None:
        while not self._closing.is_set():
            try:
                with TelemetryClient(self._endpoints.snapshots, self._keys) as client:
                    self._follow(client)
            except Exception as error:  # whatever it is, the screen says it and the last values stay
                self._problem = f"{type(error).__name__}: {error}"
                self._closing.wait(_RETRY_S)
            finally:
                self._stepping.close()

    def _follow(self, client: TelemetryClient) -> None:
        began = time.monotonic()
        while not self._closing.is_set():
            snapshot = client.poll(_ANSWER_S)
            if snapshot is not None and snapshot is not self._latest:
                self._came_s = time.monotonic()
                self._latest = snapshot
            self._steps = self._stepping.poll()
            patient = time.monotonic() - began < PATIENCE_S
            self._problem = "" if client.reachable or patient else "the daemon does not answer"
            self._closing.wait(_PERIOD_S)
