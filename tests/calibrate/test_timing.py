"""A stopwatch that looks through what others do on the machine."""

from __future__ import annotations

import time

import pytest

from runtime.calibrate.timing import Piece, Stopwatch, beyond


def busy(seconds: float) -> None:
    """Of this process' own time, however long that takes."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_slices_in_which_we_had_the_core_count() -> None:
    """Every second call gives the core away for a while; the others tell what the work takes."""
    calls = 0

    def work() -> None:
        nonlocal calls
        calls += 1
        busy(4e-3)
        if calls % 2:
            time.sleep(0.05)

    watch = Stopwatch(0.5)
    assert watch.seconds(work) < 0.03


def test_when_time_is_up_one_look_must_do() -> None:
    calls = 0

    def work() -> None:
        nonlocal calls
        calls += 1
        busy(5e-3)

    Stopwatch(10.0, until=time.perf_counter()).seconds(work)
    assert calls == 2  # one to warm up


def test_it_waits_for_the_device() -> None:
    settled = []
    Stopwatch(0.0, lambda: settled.append(1)).seconds(lambda: busy(1e-3))
    assert len(settled) >= 2


def test_what_is_known_of_a_call_is_no_more_than_most_of_it() -> None:
    """What was measured in a worse moment can be more than the whole."""
    assert beyond(0.01, 0.0) == 0.01
    assert beyond(0.01, 0.004) == pytest.approx(0.006)
    assert beyond(0.01, 9.0) == pytest.approx(0.001)


def test_pieces_take_turns_and_ranks_begin_each_together() -> None:
    """One rank says how many there are."""
    done: list[str] = []

    def meet(number: int) -> int:
        done.append("met")
        return 3 if number else 0

    watch = Stopwatch(0.0, meet=meet, chill=lambda: done.append("chilled"))
    found = watch.each([Piece(lambda: done.append("a"), cold=True), Piece(lambda: (busy(3e-3), done.append("b")))])
    turn = ["chilled", "a", "b"]
    assert done == ["a", "b", "met", *turn, "met", "met", *turn, "met", *turn]
    assert found[0] < 2e-3 < found[1]
