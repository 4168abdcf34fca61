"""The lines under a replay: pure, at any width."""

import pytest

from telemetry.records import EventRecord
from tui.view.line import text, width
from tui.view.transport import Place, clock, moment_at, transport


def event(kind, severity="info", words="something"):
    return EventRecord("d", 1, 0, severity, kind, words)


EVENTS = (
    (0.0, event("launch")),
    (30.0, event("reconfigure", words="serves tp2")),
    (60.0, event("straggler", "warning", "rank 3 is late")),
    (90.0, event("rank-died", "error", "rank 1 died")),
)
PLACE = Place("run-17.mcap", 61.0, 120.0, 2.0, True, EVENTS, (15.0,))


def bar(place=PLACE, columns=83):
    return text(transport(place, columns, 24)[1])


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "00:00:00.0"), (872.44, "00:14:32.4"), (3599.96, "00:59:59.9"), (36_061.1, "10:01:01.1")]
)
def test_clock(seconds, words):
    assert clock(seconds) == words


def test_it_says_where_the_replay_is_and_never_that_it_is_live():
    first = text(transport(PLACE, 100, 24)[0])
    for part in ("REPLAY", "run-17.mcap", "|>", "2x", "00:01:01.0 / 00:02:00", "rank 3 is late"):
        assert part in first
    assert "||" in text(transport(PLACE._replace(playing=False), 100, 24)[0])
    assert "live" not in first.lower()


def test_events_and_marks_are_ticks_at_their_place():
    shown = bar(PLACE._replace(moment=64.0))
    assert len(shown) == 83
    assert [shown[2 + round(at / 120 * 79)] for at in (15, 30, 60, 90)] == ["m", "^", "!", "x"]
    assert shown[2 + round(64 / 120 * 79)] == "█"
    assert shown[2] == "·"


def test_of_ticks_in_one_cell_the_gravest_is_seen():
    crowded = tuple((50.0 + i / 100, each) for i, (_, each) in enumerate(reversed(EVENTS)))
    assert bar(PLACE._replace(events=crowded, marks=()))[2 + round(50 / 120 * 79)] == "x"


def test_a_click_goes_to_the_tick_or_the_share_of_the_time():
    def at(cell):
        return moment_at(PLACE, 2 + cell, 83)

    assert (at(0), at(79), at(-5), at(500)) == (0.0, 120.0, 0.0, 120.0)
    assert at(40) == 60.0  # the warning there, not 60.76
    assert at(70) == pytest.approx(70 / 79 * 120)


@pytest.mark.parametrize("columns", [1, 7, 8, 12, 30, 80, 300])
@pytest.mark.parametrize("rows", [1, 5, 6, 11, 12, 100])
@pytest.mark.parametrize("seconds", [0.0, 61.0, 90_000.0])
def test_it_fits_and_gives_way_on_small_screens(columns, rows, seconds):
    lines = transport(PLACE._replace(seconds=seconds), columns, rows)
    assert len(lines) == (0 if rows < 6 or columns < 8 else 1 if rows < 12 else 2)
    assert all(width(line) <= columns for line in lines)
