"""What others do on the machine, told apart from what we do."""

from __future__ import annotations

from collections import namedtuple

import pytest

from runtime.calibrate import others
from runtime.calibrate.others import Others, await_quiet

Times = namedtuple("Times", "user nice system idle iowait irq softirq steal guest guest_nice")


class Machine:
    """Four cores; `theirs` of them are others', `ours` our own. A look takes no time, a sleep its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ours: float, theirs: list[float]) -> None:
        self.now, self.busy, self.own, self.ours, self.theirs = 0.0, 0.0, 0.0, ours, theirs
        monkeypatch.setattr(others.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(others.time, "sleep", self.sleep)
        monkeypatch.setattr(
            others.psutil, "cpu_times", lambda: Times(self.busy, 0, 0, 4 * self.now - self.busy, 0, 0, 0, 0, 0, 0)
        )
        monkeypatch.setattr(others.psutil, "cpu_count", lambda: 4)
        monkeypatch.setattr(others, "_ours", lambda: self.own)

    def sleep(self, seconds: float) -> None:
        theirs = self.theirs.pop(0) if len(self.theirs) > 1 else self.theirs[0]
        self.now += seconds
        self.busy += seconds * (self.ours + theirs)
        self.own += seconds * self.ours


def test_ours_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, ours=2.0, theirs=[1.5])
    found = Others()
    machine.sleep(10)
    assert found.cores == pytest.approx(1.5)


def test_it_waits_for_quiet_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, ours=1.0, theirs=[3.0, 2.0, 0.2])
    assert await_quiet(60) == pytest.approx(0.2)
    assert machine.now == 3
    machine = Machine(monkeypatch, ours=0.0, theirs=[3.0])
    assert await_quiet(5) == pytest.approx(3.0)
    assert 5 < machine.now < 7


def test_it_reads_this_machine() -> None:
    assert Others().cores >= 0
