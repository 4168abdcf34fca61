"""When a device passed a point of its work: pooled CUDA events, asked late, never waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

_clock = time.perf_counter_ns


class Event(Protocol):
    """What is used of `torch.cuda.Event`."""

    def record(self) -> None: ...
    def query(self) -> bool: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, end_event: Any) -> float: ...  # milliseconds


class DeviceEvents:
    """Events on the current stream of one device. `make`: a new event that keeps time."""

    def __init__(self, make: Callable[[], Event] = lambda: torch.cuda.Event(enable_timing=True)) -> None:
        self._make = make
        self._free: list[Event] = []

    def record(self) -> Event:
        event = self._free.pop() if self._free else self._make()
        event.record()
        return event

    def free(self, *events: Event) -> None:
        self._free += events


@dataclass(frozen=True)
class Mark:
    """A point of the device's work, and the host's clock when it was put there."""

    event: Event
    recorded_ns: int


class DeviceClock:
    """The device's time of a mark on the host's clock, from the time that lies between its events.

    The two clocks drift. What is known besides keeps them together: a device passes no mark before it was recorded, and none
    after it was seen to have passed it.
    """

    def __init__(self, events: DeviceEvents) -> None:
        self._events = events
        self._anchor = events.record()
        self._anchor.synchronize()
        self._anchor_ns = _clock()

    def mark(self) -> Mark:
        return Mark(self._events.record(), _clock())

    def read(self, mark: Mark) -> int:
        """When the device passed `mark`, which it has, in nanoseconds. Marks are read once each, in order."""
        ns = self._anchor_ns + int(self._anchor.elapsed_time(mark.event) * 1e6)
        ns = min(max(ns, mark.recorded_ns), _clock())
        self._events.free(self._anchor)
        self._anchor, self._anchor_ns = mark.event, ns
        return ns
