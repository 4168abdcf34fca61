"""When the phases of a step began and ended: by the host's clock, or by the device's, asked late and never waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from runtime.parallel.device_events import DeviceClock, DeviceEvents, Mark

_clock = time.perf_counter_ns


class Stretch(NamedTuple):
    """Time that belongs to one phase: "recv", "forward", "send", "sample"."""

    phase: str
    start_ns: int
    end_ns: int


Later = Callable[[], list[Stretch] | None]  # None: the device has not come so far


class Timeline(Protocol):
    """One rank's phases, one after another."""

    def enter(self, phase: str) -> None:
        """A phase begins, and ends the one before."""
        ...

    def leave(self) -> None:
        """The last phase of a step ends."""
        ...

    def take(self) -> Later:
        """The step's phases in order, to be asked for until they are known."""
        ...


class HostTimeline:
    """Work is done when the call that does it returns."""

    def __init__(self) -> None:
        self._stretches: list[Stretch] = []
        self._phase, self._start = "", 0

    def enter(self, phase: str) -> None:
        now = _clock()
        if self._phase:
            self._stretches.append(Stretch(self._phase, self._start, now))
        self._phase, self._start = phase, now

    def leave(self) -> None:
        self.enter("")

    def take(self) -> Later:
        taken, self._stretches = self._stretches, []
        return lambda: taken


class DeviceTimeline:
    """A call that returns has only asked the device: a mark in its work tells when it came there."""

    def __init__(self, events: DeviceEvents) -> None:
        self._clock = DeviceClock(events)
        self._marks: list[tuple[str, Mark]] = []  # each begins a phase, an empty one ends the last

    def enter(self, phase: str) -> None:
        self._marks.append((phase, self._clock.mark()))

    def leave(self) -> None:
        self.enter("")

    def take(self) -> Later:
        marks, self._marks = self._marks, []

        def read() -> list[Stretch] | None:
            if marks and not marks[-1][1].event.query():
                return None
            times = [self._clock.read(mark) for _, mark in marks]
            phases = [phase for phase, _ in marks]
            return [Stretch(*each) for each in zip(phases, times[:-1], times[1:], strict=False) if each[0]]

        return read
