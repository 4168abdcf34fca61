"""The timeline: stretches that are true to the records, drawn to scale, and a screen that its keys take anywhere."""

import json
import re
import time

import pytest
from driving import dashboard, reached, redrawn
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from scenes import FAILED, FEED, LOADING, QUIET, STEADY, STRAGGLER, alone, scene
from terminal import shown

from runtime.layout import Layout
from telemetry.endpoints import HubEndpoints
from telemetry.hub import Hub
from telemetry.records import AxisTime, DeploymentRecord, Phase, RankInfo, StepRecord
from tui import keys
from tui.app import Dashboard
from tui.demo import DemoSource
from tui.screens.pipeline import PipelineScreen
from tui.source import LiveSource
from tui.view import lanes as kinds
from tui.view.gantt import Window, axis, drawn
from tui.view.lanes import groups, lanes
from tui.view.line import text
from tui.view.options import Feed, Options
from tui.view.pipeline import SPANS_MS, Look, by_rank, pipeline, scrolled, stepped, zoomed
from tui.view.pipeline import scene as looked

MS = 1_000_000
THIN = 95.75
KEYS = keys.PIPELINE + keys.VIEW + keys.APP


def step(rank, start_ms, wall_ms, *phases, prefill=0, decode=4, **fields):
    given = {"gap_ns": 0, "recv_wait_ns": 0, "compute_ns": 0, "axes": {}, "idle_ns": 0, "slot": 0} | fields
    cut = [Phase(name, round(at * MS), round(length * MS)) for name, at, length in phases]
    whole = {"kv_blocks_used": 0, "kv_blocks_total": 0, "memory_bytes": 0, "sequences": decode}
    return StepRecord(
        rank=rank,
        generation=1,
        step=round(start_ms),
        start_ns=round(start_ms * MS),
        wall_ns=round(wall_ms * MS),
        prefill_tokens=prefill,
        decode_tokens=decode,
        phases=cut,
        **given,
        **whole,
    )


def two_stages(*records):
    return lanes(scene(STEADY, "pp2").deployments[0], records, False, 0)


def told(lane):
    return [(s.kind, s.start_ns / MS, s.end_ns / MS) for s in lane.stretches]


def timeline(at, layout):
    return DemoSource(Layout.parse(layout), lambda: at).timeline("qwen3-30b")


def lines_of(at, layout="tp2pp2", columns=119, rows=40, snapshot=None, records=None, feed=FEED, options=Options(), **look):
    found = timeline(at, layout) if records is None else records
    frame = pipeline(snapshot or scene(at, layout), found, feed, options, Look(**look), KEYS, columns, rows)
    return [text(line) for line in (*frame.head, *frame.body, *frame.panels, *frame.foot)]


def test_a_step_is_cut_into_its_phases_and_host_time():
    first, _second = two_stages(step(0, 10, 10, ("forward", 1, 6), ("send", 7, 1), ("sample", 9, 1), decode=0, prefill=9))
    assert told(first) == [(":", 10, 11), ("F", 11, 17), (">", 17, 18), (":", 18, 19), ("s", 19, 20)]


def test_the_forward_pass_says_what_it_runs():
    assert kinds.kind_of(step(0, 0, 1, prefill=5, decode=0)) == "F"
    assert kinds.kind_of(step(0, 0, 1, prefill=5, decode=2)) == "M"
    assert kinds.kind_of(step(0, 0, 1)) == "D"


def test_idle_is_a_bubble_only_while_another_rank_of_the_replica_works():
    """Stage 0 stands still from 10 to 30; stage 1 works from 12 to 20 of it, waiting for its input before that is no work."""
    first, second = two_stages(
        step(0, 0, 10, ("forward", 0, 10)),
        step(1, 2, 18, ("recv", 0, 10), ("forward", 10, 8), recv_wait_ns=10 * MS),
        step(0, 30, 10, ("forward", 0, 10)),
    )
    assert told(first) == [("D", 0, 10), (" ", 10, 12), ("░", 12, 20), (" ", 20, 30), ("D", 30, 40)]
    assert told(second) == [("·", 2, 12), ("D", 12, 20)]
    assert first.shares(10 * MS, 30 * MS) == pytest.approx({" ": 60, "░": 40})


def test_another_replica_at_work_makes_no_bubble():
    deployment = scene(STEADY, "dp2").deployments[0]
    records = [step(0, 0, 10, ("forward", 0, 10)), step(1, 0, 30, ("forward", 0, 30)), step(0, 30, 10, ("forward", 0, 10))]
    [lane] = lanes(deployment, records, True, 0)
    assert (" ", 10, 30) in told(lane)


def test_records_of_an_older_reader_have_no_phases_and_still_show():
    assert told(two_stages(step(0, 5, 10))[0]) == [("D", 5, 15)]


def test_waits_in_collectives_are_told_by_share():
    record = step(0, 0, 10, ("forward", 0, 10), axes={"tp": AxisTime(2, 8, 4 * MS, MS)})
    assert two_stages(record)[0].wait_share(0, 10 * MS) == pytest.approx(40)
    assert two_stages()[0].wait_share(0, 10 * MS) is None


@pytest.mark.parametrize(("layout", "ranked", "titles"), [
    ("tp2pp2", False, ["stage 0", "stage 1"]),
    ("tp2pp2", True, ["r0 p0t0", "r1 p0t1", "r2 p1t0", "r3 p1t1"]),
    ("ep2tp2", True, ["r0 e0t0", "r1 e0t1", "r2 e1t0", "r3 e1t1"]),
    ("tp1", True, ["r0"]),
])  # fmt: skip
def test_rows(layout, ranked, titles):
    deployment = scene(STEADY, layout).deployments[0]
    assert [lane.title for lane in lanes(deployment, (), ranked, 0)] == titles
    assert by_rank(deployment, Look()) == (layout != "tp2pp2")


def test_groups_are_replicas_and_ep_members():
    deployment = scene(STEADY, "pp2ep2dp2").deployments[0]
    assert groups(deployment) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [lane.rank for lane in lanes(deployment, (), False, 3)] == [5, 7]
    assert [lane.rank for lane in lanes(deployment, (), True, 2)] == [4, 5, 6, 7]
    assert [lane.rank for lane in lanes(deployment, (), False, 4)] == [0, 2]


def test_a_column_is_the_same_time_in_every_row():
    first, second = two_stages(
        step(0, 0, 40, ("forward", 0, 40), slot=3), step(1, 40, 60, ("forward", 10, 50), recv_wait_ns=10 * MS)
    )
    window = Window(0, 100 * MS)
    assert text(drawn(first, window, 20, None)) == "D3██████~~~~~~~~~~~~"
    assert text(drawn(second, window, 20, None)) == "        ::D0████████"
    assert axis(window, 100 * MS, 20) == "|-100     |-50      "


def test_a_column_shows_what_took_most_of_it():
    [lane, _] = two_stages(*(step(0, at, 10, ("forward", 0, 10), slot=at // 10 % 3) for at in range(0, 100, 10)))
    assert text(drawn(lane, Window(0, 100 * MS), 10, None)) == "0120120120"
    assert text(drawn(lane, Window(0, 100 * MS), 5, None)) in ("02102", "01201", "10210")


def test_the_marked_step_has_a_sign():
    [lane, _] = two_stages(step(0, 0, 50, ("forward", 0, 50)), step(0, 50, 50, ("forward", 0, 50), slot=1))
    assert text(drawn(lane, Window(0, 100 * MS), 20, lane.steps[1])) == "D0████████▸D1███████"


@pytest.mark.parametrize("zoom", range(len(SPANS_MS)))
@pytest.mark.parametrize("columns", [1, 7, 40, 200])
def test_the_axis_is_as_wide_as_the_lanes(zoom, columns):
    span = SPANS_MS[zoom] * MS
    labels = axis(Window(10_000 * MS - span, 10_000 * MS), 10_000 * MS, columns)
    assert len(labels) == columns
    for label in re.finditer(r"\|(-?[\d,.]+)", labels):
        at = -float(label[1].replace(",", "")) / SPANS_MS[zoom]
        assert label.start() == pytest.approx((1 - at) * columns, abs=1)


def test_scrolling_stays_within_what_is_known():
    records = timeline(STEADY, "tp2pp2")
    deployment = scene(STEADY).deployments[0]
    look = Look()
    for share in (-0.25, -100.0, 0.25, 100.0):
        shown_ = looked(deployment, records, look)
        look = scrolled(shown_, look, share)
        assert shown_.first_ns < look.end_ns <= shown_.newest_ns
        assert looked(deployment, records, look).window.end_ns == look.end_ns
    assert look.end_ns == shown_.newest_ns


def test_zooming_keeps_the_marked_step_in_sight():
    records = timeline(STEADY, "tp2pp2")
    deployment = scene(STEADY).deployments[0]
    look = Look()
    for _ in range(9):
        look = stepped(looked(deployment, records, look), look, -1)
    for by in (-1, -1, 1, 1, 1, 1, -9, 9):
        look = zoomed(looked(deployment, records, look), look, by)
        found = looked(deployment, records, look)
        assert found.marked.start_ns == look.step
        assert found.window.start_ns < found.marked.start_ns + found.marked.wall_ns
        assert found.marked.start_ns < found.window.end_ns


def test_stepping_visits_every_step_of_the_row_once_and_stops_at_the_ends():
    records = timeline(STEADY, "tp2pp2")
    deployment = scene(STEADY).deployments[0]
    look = Look(row=1)
    steps = looked(deployment, records, look).lanes[1].steps
    seen = []
    for _ in steps:
        shown_ = looked(deployment, records, look)
        seen.append(shown_.marked.start_ns)
        look = stepped(shown_, look, -1)
        assert shown_.window.start_ns <= shown_.marked.start_ns + shown_.marked.wall_ns
    assert seen == [record.start_ns for record in reversed(steps)]
    assert stepped(looked(deployment, records, look), look, -1).step == steps[0].start_ns


def test_the_bubble_stands_beside_the_theory():
    thin = "\n".join(lines_of(THIN, "pp4"))
    assert re.search(r"bubble by stage  0 7\d%  1 7\d%  2 7\d%  3 7\d%  theory 75% with 1.0 micro-batches in flight", thin)
    assert "one stage: no theory" in "\n".join(lines_of(STEADY, "tp2"))
    assert "theory --" in "\n".join(lines_of(QUIET, "tp2pp2"))


def test_straggler_and_critical_path_are_named():
    late = "\n".join(lines_of(STRAGGLER, "ep2tp2pp2"))
    assert re.search(r"straggler: wait \d+% of a step for rank 3", late)
    assert "critical path: stage 1" in late
    assert "no straggler" in "\n".join(lines_of(STEADY))


def test_the_step_under_the_cursor_is_told():
    snapshot, records = scene(STEADY), timeline(STEADY, "tp2pp2")
    record = looked(snapshot.deployments[0], records, Look()).marked
    said = "\n".join(lines_of(STEADY, records=records))
    assert f"step {record.step:,}  r0  slot {record.slot}" in said
    assert f"{record.wall_ns / 1e6:.1f} ms decode" in said
    assert f"tp {record.axes['tp'].calls} calls" in said
    talk = sum(axis.wait_ns + axis.transfer_ns for axis in record.axes.values())
    assert f"exposed communication {100 * talk / record.wall_ns:.0f}%" in said


def test_nothing_known_is_said_and_not_drawn():
    for at in (LOADING, QUIET, FAILED):
        assert any("no step in the last seconds" in line for line in lines_of(at))
    assert any("before the pause" in line for line in lines_of(STEADY, records=(), feed=Feed("live", 0.2, paused_s=3.0)))
    assert "shardscope deploy" in " ".join(lines_of(STEADY, snapshot=replace(scene(), deployments=()), records=()))


def test_stale_and_paused_are_said():
    assert "STALE 14 s" in lines_of(STEADY, feed=Feed("live", 14.0))[0]
    assert "PAUSED 33 s" in lines_of(STEADY, feed=Feed("live", 0.2, paused_s=33.0))[0]


def test_hostile_names_cannot_break_a_line():
    nasty = alone(scene(), name="evil\x1b[2J\n" + "世" * 200, model="/x/\x07" + "y" * 300)
    for line in lines_of(STEADY, snapshot=nasty, columns=79, rows=24):
        assert line.isprintable()
        assert len(line) <= 79


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 100),
    st.sampled_from(["tp1", "pp4", "ep2tp2pp2", "tp2dp2"]),
    st.sampled_from([LOADING, STEADY, THIN, FAILED]),
    st.builds(
        Look, by_rank=st.sampled_from([None, True, False]), group=st.integers(0, 5), zoom=st.integers(0, 8), row=st.integers(0, 9)
    ),
)
def test_any_size_draws_within_it(columns, rows, layout, at, look):
    frame = pipeline(scene(at, layout), timeline(at, layout), FEED, Options(), look, KEYS, columns, rows)
    assert len(frame.head) + len(frame.panels) + len(frame.foot) <= rows
    assert max(len(text(line)) for line in (*frame.head, *frame.body, *frame.panels, *frame.foot)) <= columns


@pytest.mark.parametrize("columns", [79, 119])
def test_eight_stages_are_in_sight(columns):
    seen = lines_of(STEADY, "pp8", columns, 24)
    assert len([line for line in seen if re.match("[ ▸]stage ", line)]) == 8
    assert len(seen) <= 24


async def at_timeline(app, pilot):
    await pilot.press("3")
    return await reached(app, pilot, PipelineScreen)


def row(lines, name):
    return next(line for line in lines if line[1:].startswith(name))


async def test_3_shows_it_live_and_space_freezes_it():
    async with dashboard() as (app, pilot):
        first = await at_timeline(app, pilot)
        app.clock.now += 0.5
        later = await redrawn(app, pilot)
        assert row(later, "stage 0") != row(first, "stage 0")
        await pilot.press("space")
        frozen = await redrawn(app, pilot)
        app.clock.now += 5
        assert (await redrawn(app, pilot))[3:-1] == frozen[3:-1]
        await pilot.press("space")
        assert row(await redrawn(app, pilot), "stage 0") != row(frozen, "stage 0")


async def test_scrolling_freezes_first_and_moves_in_time():
    async with dashboard() as (app, pilot):
        live = await at_timeline(app, pilot)
        await pilot.press("left", "left")
        back = await redrawn(app, pilot)
        assert "PAUSED" in back[0]
        assert "before the newest" in "".join(back)
        assert row(back, "stage 1") != row(live, "stage 1")
        await pilot.press("right", "right")
        assert row(await redrawn(app, pilot), "stage 1")[:-5] == row(live, "stage 1")[:-5]
        await pilot.press("space")
        assert "PAUSED" not in (await redrawn(app, pilot))[0]


async def test_zoom_changes_how_many_milliseconds_there_are():
    async with dashboard() as (app, pilot):
        await at_timeline(app, pilot)
        for key, span in (("plus", "50 ms"), ("equals_sign", "20 ms"), ("minus", "50 ms"), ("minus", "100 ms")):
            await pilot.press(key)
            lines = await redrawn(app, pilot)
            assert any(re.search(rf"─ {span} up to", line) for line in lines)
        assert "PAUSED" not in lines[0]


async def test_brackets_go_from_step_to_step_and_arrows_from_row_to_row():
    async with dashboard() as (app, pilot):
        await at_timeline(app, pilot)

        async def marked():
            found = re.search(r"step ([\d,]+)  r(\d)", "\n".join(await redrawn(app, pilot)))
            return int(found[1].replace(",", "")), int(found[2])

        number, rank = await marked()
        assert rank == 0
        await pilot.press("left_square_bracket", "left_square_bracket", "left_square_bracket")
        assert await marked() == (number - 3, 0)
        await pilot.press("right_square_bracket")
        assert await marked() == (number - 2, 0)
        await pilot.press("j")
        assert (await marked())[1] == 2
        await pilot.press("up")
        assert (await marked())[1] == 0


async def test_v_shows_ranks_and_stages_and_n_the_next_group():
    async with dashboard(layout="pp2ep2") as (app, pilot):
        first = await at_timeline(app, pilot)
        assert "ep member 0" in "".join(first)
        await pilot.press("n")
        assert "ep member 1" in "".join(await redrawn(app, pilot))
        await pilot.press("v")
        assert row(await redrawn(app, pilot), "r3 p1e1")
        await pilot.press("v")
        assert row(await redrawn(app, pilot), "stage 1")


async def test_e_exports_the_steps_as_a_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with dashboard(STEADY) as (app, pilot):
        await pilot.press("3")
        await reached(app, pilot, PipelineScreen)
        await pilot.press("space", "e")
        await app.workers.wait_for_complete()
        await pilot.pause()
        [out] = tmp_path.glob("*-steps-*.json")
        known = app.session.timeline("qwen3-30b")
        events = json.loads(out.read_text())["traceEvents"]
        steps = [each for each in events if each["ph"] == "X" and each["tid"] == 1]
        assert len(steps) == len(known)
        assert sorted(round(each["dur"] * 1e3) for each in steps) == sorted(record.wall_ns for record in known)
        assert min(each["ts"] for each in steps) == 0
        names = {each["args"]["name"] for each in events if each["name"] == "process_name"}
        assert {name.split()[1] for name in names} == {"0", "1", "2", "3"}
        assert any(f"{len(known):,} steps are in {out}" in each.message for each in app._notifications)


async def test_where_there_are_no_steps_nothing_is_exported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with dashboard(LOADING) as (app, pilot):
        await pilot.press("3", "e")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert any("Nothing to export" in each.message for each in app._notifications)
        assert not list(tmp_path.iterdir())


async def test_tab_shows_the_other_deployment():
    async with dashboard() as (app, pilot):
        await at_timeline(app, pilot)
        await pilot.press("tab")
        lines = await redrawn(app, pilot)
        assert lines[0].startswith(" llama-1b")
        assert row(lines, "r0")
        assert "replica 0" in "".join(lines)


async def test_64_ranks_scroll_with_the_marked_row():
    async with dashboard(layout="tp8pp8", size=(80, 24)) as (app, pilot):
        await at_timeline(app, pilot)
        await pilot.press("v", *["down"] * 30)
        await redrawn(app, pilot)
        await pilot.pause()
        assert any(line.startswith("▸r30") for line in shown(app))


async def test_steps_of_a_running_hub_are_drawn(tmp_path):
    """Two stages, 20 ms each in turn: what the live source hears is what stands there."""
    endpoints = HubEndpoints.under(tmp_path)
    ranks = [RankInfo(rank, 0, rank, 0, 0, 100 + rank, "cpu", 6 * rank, 6 * rank + 5) for rank in (0, 1)]
    layout = {"dp": 1, "pp": 2, "ep": 1, "tp": 1}
    state = DeploymentRecord("live", 1, time.perf_counter_ns(), "READY", "/m", layout, "cpu", "float32", False, ranks)
    async with Hub(endpoints) as hub:
        hub.inject([state])
        app = Dashboard(LiveSource(endpoints))
        async with app.run_test(size=(120, 36)) as pilot:
            await pilot.press("3")
            lines = await reached(app, pilot, PipelineScreen)
            for _ in range(200):
                now = time.perf_counter_ns() // MS
                steps = [step(0, now - 40, 20, ("forward", 0, 20)), step(1, now - 20, 20, ("forward", 0, 18), ("sample", 18, 2))]
                hub.inject(steps, "live")
                await pilot.pause(0.05)
                lines = await redrawn(app, pilot)
                if sum("D0█" in line for line in lines) == 2:
                    break
            assert "D0█" in row(lines, "stage 0")
            assert "D0█" in row(lines, "stage 1")
            assert "live" in lines[0]
