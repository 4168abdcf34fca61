"""The collectives of a deployment on a screen: figures against the link, waits against transfers, who is late."""

import re

import pytest
from driving import dashboard, reached, redrawn
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from scenes import FAILED, FEED, LOADING, STEADY, STRAGGLER, alone, scene

from telemetry.records import Peaks
from telemetry.snapshot import CollectiveView
from tui import keys
from tui.screens.collectives import CollectivesScreen
from tui.view.collectives import SORTS, arranged, collectives, link_of, time_ms, wait_pct
from tui.view.line import text
from tui.view.options import Feed, Options

KEYS = keys.COLLECTIVES + keys.VIEW + keys.APP


def kind(**fields):
    given = {
        "axis": "tp",
        "op": "all_reduce",
        "size_class": 17,
        "members": 2,
        "calls_per_s": 1000.0,
        "bytes": 1e5,
        "wait_us": 30.0,
        "transfer_us": 70.0,
        "p50_us": 99.0,
        "p99_us": 150.0,
        "wait_p99_us": 80.0,
        "algorithm_bandwidth": 1.4e9,
        "bus_bandwidth": 1.4e9,
    }
    return CollectiveView(**given | fields)


def lines_of(snapshot, columns=119, rows=40, feed=FEED, expression="", sort="kind", options=Options()):
    frame = collectives(snapshot, feed, options, expression, sort, KEYS, columns, rows)
    return [text(line) for line in (*frame.head, *frame.body, *frame.panels, *frame.foot)]


def of(*kinds, **changes):
    return alone(scene(), collectives=kinds, **changes)


def table_row(lines, name):
    return next(line for line in lines if line.startswith(f" {name}"))


def test_a_row_tells_speed_against_the_link_and_wait_against_transfer():
    lines = lines_of(of(kind(bus_bandwidth=90e9, straggler=3, late_us=28.0)), 150)
    titles = next(line for line in lines if "collective " in line).split()
    assert [word for word in titles if word in ("450", "busbw", "calls/s", "late")] == ["calls/s", "busbw", "450", "late"]
    words = table_row(lines, "tp all-reduce x2").split()
    assert words[:4] == ["tp", "all-reduce", "x2", "128Ki"]
    assert {"1,000", "100", "99.0", "150", "90.0", "20%", "30%", "r3", "28.0"} <= set(words)
    assert re.search(r"\[▓+▒+\]", table_row(lines, "tp all-reduce x2"))


def test_unavailable_is_dashes_and_an_unknown_device_has_no_link():
    bare = kind(p50_us=None, p99_us=None, wait_p99_us=None, algorithm_bandwidth=None, bus_bandwidth=None, wait_us=0.0)
    lines = lines_of(of(bare, peaks=None), 150)
    assert "of link" in "".join(lines)
    assert table_row(lines, "tp").split().count("--") == 6
    assert "0%" in table_row(lines, "tp").split()
    assert not any("bus bandwidth" in line for line in lines)
    [on_cpu] = of(bare, peaks=Peaks(1e12, 1e10, "measured here")).deployments
    assert link_of(on_cpu) is None


def test_a_figure_too_long_for_its_column_is_shortened_and_never_cut():
    long = kind(p50_us=99_949.0, p99_us=664_534.0, calls_per_s=0.25, bus_bandwidth=4e5, straggler=3, late_us=1_234_567.0)
    words = table_row(lines_of(of(long), 150), "tp").split()
    assert {"99,949", "665k", "0.25", "<0.01", "r3", "1,235k"} <= set(words)


def test_waiting_that_is_most_of_it_has_a_sign():
    assert "30%" in table_row(lines_of(of(kind())), "tp").split()
    assert "80%!" in table_row(lines_of(of(kind(wait_us=280.0))), "tp").split()


def test_shares_and_times():
    assert time_ms(kind()) == pytest.approx(100.0)
    assert wait_pct(kind()) == pytest.approx(30.0)
    assert wait_pct(kind(wait_us=0.0, transfer_us=0.0)) is None


def test_sorting_is_greatest_first_with_the_unavailable_last():
    rows = [kind(p99_us=5.0), kind(p99_us=None, op="broadcast"), kind(p99_us=9.0, axis="ep")]
    assert [row.p99_us for row in arranged(rows, "", "p99")] == [9.0, 5.0, None]
    assert [(row.axis, row.op) for row in arranged(rows, "", "kind")] == [
        ("ep", "all_reduce"),
        ("tp", "all_reduce"),
        ("tp", "broadcast"),
    ]
    for sort in SORTS:
        assert len(arranged(rows, "", sort)) == 3


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("", ["tp all_reduce", "ep all_to_all", "pp send"]),
        ("tp", ["tp all_reduce"]),
        ("all", ["tp all_reduce", "ep all_to_all"]),
        ("all-to-all", ["ep all_to_all"]),
        ("all_to_all", ["ep all_to_all"]),
        ("r3", ["tp all_reduce"]),
        ("late>10", ["tp all_reduce"]),
        ("p99>100 wait<40", ["tp all_reduce", "ep all_to_all"]),
        ("p99<100", ["pp send"]),
        ("busbw>1", ["tp all_reduce", "ep all_to_all"]),
        ("nonsense>1", []),
        ("dp", []),
    ],
)
def test_filter(expression, expected):
    rows = [
        kind(straggler=3, late_us=20.0),
        kind(axis="ep", op="all_to_all"),
        kind(axis="pp", op="send", p99_us=50.0, bus_bandwidth=None),
    ]
    assert {f"{row.axis} {row.op}" for row in arranged(rows, expression, "kind")} == set(expected)


def test_the_late_rank_is_named_at_every_width():
    for columns in (79, 119, 199):
        lines = lines_of(scene(STRAGGLER, "ep2tp2pp2"), columns)
        assert re.search(r"r3 \d", table_row(lines, "tp all-reduce"))
        assert not re.search(r"r\d \d", table_row(lines_of(scene(STEADY, "ep2tp2pp2"), columns), "tp all-reduce"))


def test_bars_of_bus_bandwidth_are_on_one_scale():
    lines = lines_of(of(kind(bus_bandwidth=50e9), kind(size_class=22, bus_bandwidth=225e9), device="H200"))
    assert any("up to nvlink's 450" in line for line in lines)
    [small, large] = [line.count("█") for line in lines if re.match(r"^ .*\[█", line)]
    assert large == pytest.approx(4.5 * small, abs=3)
    slow = lines_of(of(kind(bus_bandwidth=2e9), device="H200"))
    assert any("up to the best, 2.0" in line for line in slow)


def test_no_collectives_are_explained():
    assert "each replica is one rank" in "".join(lines_of(scene(STEADY, "tp1")))
    assert "each replica is one rank" in "".join(lines_of(scene(STEADY, "dp2")))
    assert "no collective in the window" in "".join(lines_of(scene(LOADING)))
    assert "no collective matches 'dp'" in "".join(lines_of(scene(STEADY), expression="dp"))
    assert "shardscope deploy" in "".join(lines_of(replace(scene(), deployments=())))


def test_stale_and_paused_are_said():
    assert "STALE 14 s" in lines_of(scene(), feed=Feed("live", 14.0))[0]
    assert "PAUSED 33 s" in lines_of(scene(), feed=Feed("live", 0.2, paused_s=33.0))[0]


def test_hostile_names_cannot_break_a_line():
    nasty = of(kind(axis="tp\x1b[2J", op="世界\n" * 40, size_class=10**6), kind(size_class=-5), device="\x07")
    for line in lines_of(nasty, 79, 24, expression="\x1b[31m世"):
        assert line.isprintable()
        assert len(line) <= 79
    assert all(line.isprintable() for line in lines_of(nasty, 199, 60))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 100),
    st.sampled_from(["tp1", "pp4", "ep2tp2pp2"]),
    st.sampled_from([LOADING, STRAGGLER, FAILED]),
    st.sampled_from(SORTS),
    st.sampled_from(["", "tp", "nothing"]),
)
def test_any_size_draws_within_it(columns, rows, layout, at, sort, expression):
    frame = collectives(scene(at, layout), FEED, Options(), expression, sort, KEYS, columns, rows)
    assert len(frame.head) + len(frame.panels) + len(frame.foot) <= rows + 1
    assert max(len(text(line)) for line in (*frame.head, *frame.body, *frame.panels, *frame.foot)) <= columns


def rows_of(lines):
    return [line.split()[0] for line in lines if re.match(r" (tp|ep|pp) .* x2 ", line) and "[" not in line[:50]]


async def test_4_shows_them_and_s_sorts():
    async with dashboard(STRAGGLER, "ep2tp2pp2") as (app, pilot):
        await pilot.press("4")
        lines = await reached(app, pilot, CollectivesScreen)
        assert any("by kind" in line for line in lines)
        await pilot.press("s")
        lines = await redrawn(app, pilot)
        assert any("by time" in line for line in lines)
        first = next(line for line in lines if " x2 " in line)
        assert first.startswith(" ep all-to-all x2")
        for sort in (*SORTS[2:], SORTS[0]):
            await pilot.press("s")
            assert any(f"by {sort}" in line for line in await redrawn(app, pilot))


async def test_slash_filters_while_typing_and_escape_clears():
    async with dashboard(STRAGGLER, "ep2tp2pp2") as (app, pilot):
        await pilot.press("4")
        await reached(app, pilot, CollectivesScreen)
        await pilot.press("slash", *"tp")
        lines = await redrawn(app, pilot)
        assert any("2 of 6" in line for line in lines)
        assert not any(line.startswith(" ep ") for line in lines)
        await pilot.press("enter")
        assert any("/ tp" in line for line in await redrawn(app, pilot))
        await pilot.press("escape")
        assert any("── 6, last 10 s" in line or " 6, last 10 s" in line for line in await redrawn(app, pilot))


async def test_space_freezes_the_figures():
    async with dashboard(STRAGGLER, "tp4") as (app, pilot):
        await pilot.press("4")
        await reached(app, pilot, CollectivesScreen)
        await pilot.press("space")
        before = await redrawn(app, pilot)
        app.clock.now = FAILED
        after = await redrawn(app, pilot)
        assert "PAUSED" in after[0]
        assert after[3:-1] == before[3:-1]
