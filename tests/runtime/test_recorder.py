"""What a rank on a CUDA device records, short of the device: its events are replaced by ones that a test's clock drives.

And how an engine puts finished requests into messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from runtime.engine.process import _messages
from runtime.parallel import device_events
from runtime.parallel.communicator import Communicator, DistributedTransport
from runtime.parallel.device_events import DeviceClock, DeviceEvents
from runtime.rank.board import Board
from runtime.rank.timeline import DeviceTimeline, Moment
from telemetry.codec import encode_envelope
from telemetry.records import MAX_GAPS, SCHEMA_VERSION, Envelope, RequestRecord


class Device:
    """A stream: each event is passed when the work before it is done; `now_ns` is both the host's clock and the device's."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000
        self.free_ns = 0  # when all work that was asked for is done
        self.drift_ns = 0
        self.made = 0

    def work(self, ns: int) -> None:
        self.free_ns = max(self.now_ns, self.free_ns) + ns

    def event(self) -> Any:
        self.made += 1
        return _Event(self)


class _Event:
    def __init__(self, device: Device) -> None:
        self._device, self.at_ns = device, 0

    def record(self) -> None:
        self.at_ns = max(self._device.now_ns, self._device.free_ns)

    def query(self) -> bool:
        return self.at_ns <= self._device.now_ns

    def synchronize(self) -> None:
        self._device.now_ns = max(self._device.now_ns, self.at_ns)

    def elapsed_time(self, end_event: Any) -> float:
        return (end_event.at_ns - self.at_ns + self._device.drift_ns) / 1e6


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    monkeypatch.setattr(device_events, "_clock", lambda: made.now_ns)
    return made


def test_phases_on_a_device_are_told_once_it_has_passed_them(device: Device) -> None:
    timeline = DeviceTimeline(DeviceEvents(device.event))
    device.now_ns += 100
    timeline.enter("recv")
    device.work(7_000)
    timeline.enter("forward")
    device.work(20_000)
    timeline.leave()
    first = timeline.take()
    device.now_ns += 500
    timeline.enter("forward")  # the host goes on
    device.work(3_000)
    timeline.leave()
    second = timeline.take()
    start = device.now_ns - 500
    assert first() is None
    device.now_ns = start + 27_000
    assert first() == [Moment("recv", start), Moment("forward", start + 7_000), Moment("", start + 27_000)]
    assert second() is None
    device.now_ns += 3_000
    assert second() == [Moment("forward", start + 27_000), Moment("", start + 30_000)]


def test_events_are_used_again(device: Device) -> None:
    timeline = DeviceTimeline(DeviceEvents(device.event))
    for _ in range(50):
        timeline.enter("forward")
        device.work(1_000)
        timeline.leave()
        device.now_ns += 2_000
        assert timeline.take()() is not None
    assert device.made < 6


def test_a_device_whose_clock_drifts_stays_between_what_the_host_knows(device: Device) -> None:
    clock = DeviceClock(DeviceEvents(device.event))
    device.drift_ns = -1_000_000  # each time between two events is measured so much too short
    for _ in range(20):
        mark = clock.mark()
        asked = device.now_ns
        device.now_ns += 50_000
        assert asked <= clock.read(mark) <= device.now_ns
    device.drift_ns = 1_000_000
    for _ in range(20):
        mark = clock.mark()
        device.now_ns += 50_000
        assert clock.read(mark) <= device.now_ns


class Work(DistributedTransport):
    """As NCCL: a call asks the device, and returns."""

    def __init__(self, device: Device, takes_ns: Callable[[], int]) -> None:
        self._device, self._takes_ns = device, takes_ns

    def all_reduce(self, x: torch.Tensor) -> int:
        self._device.work(self._takes_ns())
        return 0

    def receive(self, out: torch.Tensor, source: int) -> int:
        self._device.work(self._takes_ns())
        return 0


def test_collectives_on_a_device_are_counted_with_the_step_that_made_them(device: Device) -> None:
    times = iter([4_000, 6_000, 9_000, 1_000, 1_000])
    communicator = Communicator(
        "tp", 2, 0, Work(device, lambda: next(times)), Board.create(1).ranks[0], DeviceEvents(device.event)
    )
    x = torch.zeros(100)
    communicator.all_reduce(x)
    communicator.all_reduce(x)
    communicator.receive(x, 1)
    first_step = communicator.mark()
    communicator.all_reduce(x)
    device.now_ns += 19_000
    first_step = communicator.reached(first_step)
    assert communicator.take_receive_wait(first_step) == 9_000
    taken = communicator.take(first_step)
    assert taken is not None
    assert (taken.calls, taken.bytes, taken.wait_ns, taken.transfer_ns) == (3, 800, 0, 10_000)
    tallies = {tally.op.name: tally for tally in communicator.take_tallies()}
    assert {name: (t.first, t.bytes, list(t.waits), list(t.transfers)) for name, t in tallies.items()} == {
        "ALL_REDUCE": (1, 800, [0, 0], [4_000, 6_000]),
        "RECV": (3, 400, [9_000], [0]),
    }
    last = communicator.mark()
    assert communicator.take(communicator.reached(last)) == type(taken)(), "the device is not through with the fourth"
    device.now_ns += 1_000
    taken = communicator.take(communicator.reached(last))
    assert taken is not None
    assert (taken.calls, taken.transfer_ns) == (1, 1_000)


def test_steps_that_are_asked_for_late_are_told_apart_by_their_marks() -> None:
    """On a host, where calls are counted as they are made."""
    communicator = Communicator("pp", 2, 0, Sleepless(), Board.create(1).ranks[0])
    x, marks = torch.zeros(100), []
    for calls in (1, 0, 3):
        for _ in range(calls):
            communicator.all_reduce(x)
        communicator.receive(x, 1)
        marks.append(communicator.mark())
    found = []
    for mark in marks:
        received = communicator.take_receive_wait(communicator.reached(mark))
        taken = communicator.take(mark)
        assert taken is not None
        found.append((received, taken.calls, taken.bytes, taken.wait_ns))
    assert found == [(7, 2, 400, 5), (7, 1, 0, 0), (7, 4, 1200, 15)]
    assert communicator.take_receive_wait() == 0


class Sleepless(DistributedTransport):
    """Tells of waits that it did not make."""

    def __init__(self) -> None:
        pass

    def all_reduce(self, x: torch.Tensor) -> int:
        return 5

    def receive(self, out: torch.Tensor, source: int) -> int:
        return 7


def request(number: int, gaps: list[int]) -> RequestRecord:
    return RequestRecord("d", 1, str(number), 0, 0, 0, 0, 1, 5, 0, len(gaps) + 1, "length", gaps)


def test_requests_of_any_length_fit_into_messages() -> None:
    widest = (1 << 48) - 1  # nine bytes each
    finished = [request(i, [widest] * count) for i, count in enumerate([MAX_GAPS, 3, MAX_GAPS - 3, 1, 0, MAX_GAPS])]
    messages = list(_messages([], finished))
    assert [record for message in messages for record in message] == finished
    for message in messages:
        encode_envelope(Envelope(SCHEMA_VERSION, "d", "engine:0", 1, 0, 0, message))
    assert len(messages) == 4
    assert list(_messages([], [])) == []
