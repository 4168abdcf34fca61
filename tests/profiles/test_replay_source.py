"""A recording as a source of snapshots: the clock's arithmetic, and what a screen sees."""

import random
import time

import pytest
from profile_runs import Run, S, T

from profiles.player import Player
from profiles.reader import Profile
from profiles.replay import SPEEDS, ReplayClock, ReplaySource, parse_moment
from profiles.timeline import SPAN_NS, Timeline
from telemetry.records import StepRecord
from tui.source import Source


class Hand:
    """A clock that a test turns."""

    def __init__(self):
        self.s = 100.0

    def __call__(self):
        return self.s


def test_the_clock_plays_pauses_seeks_and_steps():
    hand = Hand()
    clock = ReplayClock(60.0, hand)
    assert (clock.moment, clock.playing) == (0.0, False)
    clock.play()
    hand.s += 2
    assert clock.moment == pytest.approx(2)
    clock.faster()
    hand.s += 2
    assert (clock.speed, clock.moment) == (2.0, pytest.approx(6))
    clock.pause()
    hand.s += 50
    assert clock.moment == pytest.approx(6)
    clock.step()
    assert clock.moment == pytest.approx(6.25)
    clock.step(-2)
    assert clock.moment == pytest.approx(5.75)
    clock.seek(59.9)
    clock.play()
    hand.s += 10
    assert (clock.moment, clock.ended) == (60.0, True)
    clock.play()
    assert clock.moment == 0.0
    clock.seek(-5)
    assert clock.moment == 0.0


def test_speeds_end_where_the_list_does():
    clock = ReplayClock(60.0, Hand())
    for _ in range(20):
        clock.faster()
    assert clock.speed == SPEEDS[-1] == 16.0
    clock.faster(-100)
    assert clock.speed == SPEEDS[0] == 0.25


@pytest.mark.parametrize(("text", "seconds"), [("7", 7), ("01:30", 90), ("1:02:03.5", 3723.5), ("0:00", 0)])
def test_moments(text, seconds):
    assert parse_moment(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "1:-2", "1:2:3:4", "inf", "nan"])
def test_what_is_no_moment(text):
    with pytest.raises(ValueError, match="MM:SS"):
        parse_moment(text)


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_source_that_screens_cannot_tell_from_a_live_one(run_file):
    hand = Hand()
    source: Source = ReplaySource(Profile(run_file), hand)
    assert (source.latest(), source.age()) == (None, None)
    source.start()
    try:
        assert source.latest().time_ns == T
        assert (source.age(), source.problem) == (0.0, "")
        hand.s += 3
        until(lambda: source.latest().time_ns == T + 3 * S)
        same = source.latest()
        time.sleep(0.25)
        assert source.latest() is same
        source.pause()
        source.seek(20.5)
        until(lambda: source.latest().time_ns == T + 20 * S + S // 2)
        with Profile(run_file) as profile:
            assert source.latest() == Player(profile).at(T + 20 * S + S // 2)
        source.step(-1)
        until(lambda: source.latest().time_ns == T + 20 * S + S // 4)
        source.skip(-10)
        until(lambda: source.latest().time_ns == T + 10 * S + S // 4)
        assert [round(tick.moment) for tick in source.ticks] == [0, 7, 14, 21, 28]
        assert (source.playing, source.speed, source.name) == (False, 1.0, "replay run.mcap")
        source.seek(1e9)
        source.toggle()
        until(lambda: source.playing and source.moment < 1)
    finally:
        source.close()


def test_marks_and_jumps_between_them_and_events(run_file):
    source = ReplaySource(Profile(run_file), Hand())
    source.start()
    try:
        until(lambda: len(source.ticks) == 5)
        source.pause()
        source.seek(10.0)
        assert source.mark()
        source.seek(3.0)
        assert source.mark()
        assert source.marks == (3.0, 10.0)
        visited = []
        for step in (1, 1, 1, 1, -1, -1, -1, -1, -1):
            source.jump(step)
            visited.append(round(source.moment))
        assert visited == [7, 10, 14, 21, 14, 10, 7, 3, 0]  # events are at 0, 7, 14, 21 and 28 s
        source.seek(10.1)
        assert not source.mark()  # near enough: it goes
        assert source.marks == (3.0,)
    finally:
        source.close()


def test_the_timeline_of_any_moment_holds_the_steps_of_the_seconds_before(run_file):
    """However it is reached: forwards by little, by much, backwards."""
    told = [(at, step) for at, envelope in Run() for step in envelope.records if isinstance(step, StepRecord)]
    rng = random.Random(5)
    moments = [T + rng.randrange(30 * S) for _ in range(30)]
    moments += [T + S + number * S // 3 for number in range(60)] + [T, T - S, T + 40 * S]
    with Profile(run_file) as profile:
        timeline = Timeline(profile)
        for now in moments:
            ends = [(step.start_ns + step.wall_ns, step.rank, step) for at, step in told if at <= now]
            expected = [step for end, _, step in sorted(ends, key=lambda e: e[:2]) if now - SPAN_NS < end <= now]
            assert list(timeline.at(now, "demo")) == expected
        assert timeline.at(T + 5 * S, "another") == ()


def test_a_replay_reads_the_timeline_once_somebody_asks(run_file):
    source = ReplaySource(Profile(run_file), Hand())
    source.start()
    try:
        source.pause()
        source.seek(12.0)
        assert source.timeline("demo") == ()
        until(lambda: source.latest().time_ns == T + 12 * S and source.timeline("demo"))
        with Profile(run_file) as profile:
            assert source.timeline("demo") == Timeline(profile).at(T + 12 * S, "demo")
    finally:
        source.close()
