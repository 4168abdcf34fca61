"""When the phases of a step began and ended: by the host's clock, or by the device's, asked late and never waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from runtime.parallel.device_events import DeviceClock, DeviceEvents, Mark

_clock = time.perf_counter_ns


class Moment(NamedTuple):
    """When a phase began ("recv", "forward", "send", "sample"), and the one before ended; an empty name: only that."""

    phase: str
    at_ns: int


Later = Callable[[], list[Moment] | None]  # None: the device has not come so far


class Timeline(Protocol):
    """One rank's phases, one after another."""

    def enter(self, phase: str) -> None:
        """A phase begins, and ends the one before."""
        ...

    def leave(self) -> None:
        """The last phase of a step ends."""
        ...

    def take(self) -> Later:
        """The step's moments in order, to be asked for until they are known."""
        ...


class HostTimeline:
    """Work is done when the call that does it returns."""

    def __init__(self) -> None:
        self._moments: list[Moment] = []

    def enter(self, phase: str) -> None:
        self._moments.append(Moment(phase, _clock()))

    def leave(self) -> None:
        self.enter("")

    def take(self) -> Later:
        taken, self._moments = self._moments, []
        return lambda: taken


class DeviceTimeline:
    """A call that returns has only asked the device: a mark in its work tells when it came there."""

    def __init__(self, events: DeviceEvents) -> None:
        self._clock = DeviceClock(events)
        self._marks: list[tuple[str, Mark]] = []

    def enter(self, phase: str) -> None:
        self._marks.append((phase, self._clock.mark()))

    def leave(self) -> None:
        self.enter("")

    def take(self) -> Later:
        marks, self._marks = self._marks, []

        def read() -> list[Moment] | None:
            if marks and not marks[-1][1].event.query():
                return None
            return [Moment(phase, self._clock.read(mark)) for phase, mark in marks]

        return read


class NoTimeline:
    """Of a rank that tells nobody."""

    def enter(self, phase: str) -> None:
        pass

    def leave(self) -> None:
        pass

    def take(self) -> Later:
        return list
