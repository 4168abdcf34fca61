"""The first screen as pure lines: what stands where, at any size, in any state."""

import pytest
from msgspec.structs import replace
from scenes import (
    FAILED,
    FEED,
    KEYS,
    LOADING,
    MOMENTS,
    RELAUNCH,
    STEADY,
    STRAGGLER,
    UP_TO_8_RANKS,
    alone,
    drawn,
    ranks_changed,
    scene,
)

from telemetry.snapshot import MemoryView
from tui.view.line import text
from tui.view.options import Feed, Options, neighbour
from tui.view.overview import overview
from tui.view.ranks import SORTS, arranged, matches

SIZES = ((80, 24), (120, 40), (200, 60))


@pytest.mark.parametrize("layout", UP_TO_8_RANKS)
@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_up_to_8_ranks_fit_without_scrolling(columns, rows, layout):
    for at in MOMENTS:
        lines = drawn(scene(at, layout), columns - 1, rows)
        assert len(lines) <= rows
        shown = " ".join(lines)
        for rank in scene(at, layout).deployments[0].ranks:
            assert f" r{rank.info.rank} " in shown
        for word in ("util", "bubble", "reduce ms", "memory", "tok", "running", "waiting", "KV", "preempted", "TTFT", "q quit"):
            assert word in shown
        assert " ..." not in shown


@pytest.mark.parametrize("form", ["auto", "grid", "table"])
def test_every_size_draws_within_its_columns(form):
    small = [None, replace(scene(), deployments=()), *(scene(at, "tp2pp2") for at in (LOADING, STRAGGLER, FAILED))]
    widths, heights = (1, 2, 3, 5, 9, 17, 33, 60, 79, 110, 121, 300), (1, 2, 4, 6, 10, 24, 100)
    cases = [(snapshot, columns, rows) for snapshot in small for columns in widths for rows in heights]
    cases += [(scene(STEADY, "tp8pp8"), columns, rows) for columns in (1, 7, 80, 300) for rows in (1, 24, 100)]
    for snapshot, columns, rows in cases:
        frame = overview(snapshot, FEED, Options(form=form), KEYS, columns, rows)
        assert len(frame.head) + len(frame.panels) + len(frame.foot) <= rows
        for line in (*frame.head, *frame.body, *frame.panels, *frame.foot):
            assert len(text(line)) <= columns


def test_64_ranks_keep_the_engine_in_sight_and_stand_side_by_side_where_they_can():
    narrow = overview(scene(STEADY, "tp8pp8"), FEED, Options(), KEYS, 79, 24)
    assert len(narrow.body) == 64
    assert narrow.panels
    wide = overview(scene(STEADY, "tp8pp8"), FEED, Options(), KEYS, 199, 60)
    assert len(wide.body) == 32
    assert text(wide.body[0]).count("cuda:") == 2


def test_columns_are_ranks_and_sections_are_stages():
    lines = drawn(scene(STEADY, "ep2tp2pp2"), 140, 50)
    titles = [line for line in lines if line.startswith("── stage")]
    assert [title.strip("─ ").partition(" ─")[0] for title in titles] == ["stage 0  layers 0-23", "stage 1  layers 24-47"]
    [first, second] = [line.split() for line in lines if line.startswith(" rank ")]
    assert " ".join(first) == "rank r0 e0 t0 cuda:0 r1 e0 t1 cuda:1 r2 e1 t0 cuda:2 r3 e1 t1 cuda:3"
    assert "r7" in second


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_state_is_a_glyph_and_a_word(columns):
    assert "● READY" in drawn(scene(STEADY), columns)[0]
    assert "◌ STARTING" in drawn(scene(LOADING), columns)[0]
    assert "× FAILED" in drawn(scene(FAILED), columns)[0]


def test_a_restart_is_marked():
    assert "relaunched" not in drawn(scene(STEADY))[0]
    assert "relaunched 1x" in drawn(scene(RELAUNCH))[0]


@pytest.mark.parametrize("form", ["grid", "table"])
def test_emulated_is_said_everywhere(form):
    said = [line for line in drawn(scene(STEADY, emulated=True), 120, 40, form=form) if "emulated" in line.lower()]
    assert len(said) == (3 if form == "grid" else 2)
    assert not any("emulated" in line.lower() for line in drawn(scene(STEADY), 120, 40, form=form))


def test_unavailable_is_dashes_and_zero_is_zero():
    def bare(rank):
        return replace(rank, util=None, bubble_pct=0.0, axes={}, memory=MemoryView(), tokens_per_s=None, util_history=())

    row = next(line for line in drawn(ranks_changed(scene(), bare)) if line.startswith(" r0 "))
    assert row.split() == ["r0", "p0t0", "--", "0%", "--", "15.6", "--", "--/--"]


def test_stale_and_paused_show_their_age():
    stale = drawn(scene(), feed=Feed("live", 14.0, "the daemon does not answer"))
    assert "live STALE 14 s" in stale[0]
    assert "the daemon does not answer" in stale[2]
    paused = drawn(scene(), feed=Feed("live", 0.2, paused_s=33.0))
    assert "live PAUSED 33 s" in paused[0]
    assert "space resume" in paused[-1]
    assert "read-only" in drawn(scene(), feed=Feed("live", 0.2, readonly=True))[0]


def test_the_source_is_named_at_every_useful_width():
    for columns in (40, 60, 80, 200):
        assert "scripted demo" in drawn(scene(), columns)[0]


def test_one_deployment_needs_no_tabs_and_several_can_be_chosen():
    assert not any(line.startswith(" [ ]") for line in drawn(alone(scene())))
    assert "> ● qwen3-30b" in drawn(scene())[1]
    assert "> ● llama-1b" in drawn(scene(), deployment="llama-1b")[1]
    assert "> ● qwen3-30b" in drawn(scene(), deployment="gone")[1]
    assert neighbour(scene(), Options(), 1) == "llama-1b"
    assert neighbour(scene(), Options(deployment="llama-1b"), 1) == "qwen3-30b"
    assert neighbour(None, Options(), 1) == ""


def test_a_long_name_does_not_push_the_state_out():
    lines = drawn(alone(scene(), name="a-very-long-name-" * 5), 80)
    assert "● READY" in lines[0]
    assert "…" in lines[0]


def test_events_are_newest_first_whole_and_counted():
    lines = drawn(scene(STRAGGLER), 80, 24)
    at = next(i for i, line in enumerate(lines) if "events" in line)
    assert "r3 computes 1.3x" in lines[at + 1]
    lost = drawn(replace(scene(), lost=1234))
    assert any("1,234 telemetry messages lost" in line for line in lost)


def test_text_of_others_cannot_break_the_screen():
    nasty = alone(scene(FAILED), name="evil\x1b[2J\n", reason="boom\r\n\x1b]0;x\x07" + "z" * 500)
    for line in drawn(nasty):
        assert line.isprintable()
        assert len(line) <= 80


def test_sorting_puts_the_greatest_first_and_the_unavailable_last():
    ranks = scene(STRAGGLER).deployments[0].ranks
    assert arranged(ranks, "", "util")[0].info.rank == 3
    gone = [replace(ranks[0], util=None), *ranks[1:]]
    assert arranged(gone, "", "util")[-1].info.rank == 0
    for sort in SORTS:
        assert len(arranged(ranks, "", sort)) == 4


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("", [0, 1, 2, 3]),
        ("r3", [3]),
        ("p1", [2, 3]),
        ("p1 t0", [2]),
        ("cuda:2", [2]),
        ("ready", [0, 1, 2, 3]),
        ("dead", []),
        ("util>80", [3]),
        ("all-reduce>5", [2]),
        ("bubble<15 P1", [2, 3]),
        ("nonsense>5", []),
        ("r", [0, 1, 2, 3]),
        ("util>", []),
    ],
)
def test_filter(expression, expected):
    ranks = scene(40.0).deployments[0].ranks
    assert [rank.info.rank for rank in ranks if matches(rank, expression)] == expected


def test_nothing_unavailable_passes_a_comparison():
    ranks = scene(LOADING).deployments[0].ranks
    assert not any(matches(rank, "util<200") for rank in ranks)


def test_units():
    assert "125Gi/131Gi" in " ".join(drawn(scene()))
    assert "134G/141G" in " ".join(drawn(scene(), units="GB"))


def test_memory_of_unknown_total_still_shows_its_parts():
    def unknown(rank):
        return replace(rank, memory=MemoryView(weights=400 << 20, kv=200 << 20, used=700 << 20))

    row = next(line for line in drawn(ranks_changed(scene(), unknown), 120, 40, form="table") if line.startswith(" r0 "))
    assert "700Mi/--" in row
    assert "█" in row.split("[")[1]


def test_a_row_says_whose_it_is_however_narrow_the_screen():
    rows = drawn(scene(), 12, 20, form="table")
    assert [row.split()[0] for row in rows if row.strip().startswith("r")][-4:] == ["r0", "r1", "r2", "r3"]
