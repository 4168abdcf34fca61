"""The script of the demo: the same second gives the same, and its parts agree with each other."""

import pytest

from runtime.layout import Layout
from tui.demo import DemoSource, script
from tui.demo.schedule import Script
from tui.demo.timeline import timeline

STEADY, LATE, THIN, CROWD = 24.0, 45.0, 95.75, 108.0
LAYOUTS = ("tp1", "tp2pp2", "pp4", "ep2tp2pp2", "dp2", "tp2pp2dp2", "ep4")


def source(at, layout="tp2pp2"):
    return DemoSource(Layout.parse(layout), lambda: at)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("at", [4.0, STEADY, LATE, 78.0, THIN, CROWD, 113.0, 130.0, 145.0, 155.0, 500.25])
def test_every_second_is_the_same_whenever_it_is_asked_for(at, layout):
    assert script(at, Layout.parse(layout)) == script(at, Layout.parse(layout))
    assert source(at, layout).timeline("qwen3-30b") == source(at, layout).timeline("qwen3-30b")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("at", [STEADY, LATE, THIN, CROWD, 130.0, 145.0])
def test_the_parts_of_the_time_sum_to_it(at, layout):
    for rank in script(at, Layout.parse(layout)).deployments[0].ranks:
        assert sum(getattr(rank.split, part) for part in rank.split.__struct_fields__) == pytest.approx(100)
    for step in timeline(Script("qwen3-30b", Layout.parse(layout)), at):
        collectives = sum(axis.wait_ns + axis.transfer_ns for axis in step.axes.values())
        assert step.gap_ns + step.recv_wait_ns + step.compute_ns + collectives == pytest.approx(step.wall_ns, abs=100)
        assert step.gap_ns + sum(phase.duration_ns for phase in step.phases) == pytest.approx(step.wall_ns, abs=100)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_of_a_rank_follow_each_other_and_stages_pass_them_on(layout):
    steps = source(LATE, layout).timeline("qwen3-30b")
    ended: dict[int, int] = {}
    forwards: dict[tuple[int, int], list[tuple[int, int]]] = {}
    parsed = Layout.parse(layout)
    for step in steps:
        assert step.start_ns >= ended.get(step.rank, 0) - 1000
        ended[step.rank] = step.start_ns + step.wall_ns
        begin = next(phase.offset_ns for phase in step.phases if phase.name == "forward") + step.start_ns
        place = parsed.coordinates(step.rank)
        forwards.setdefault((step.step, place.dp), []).append((place.pp, begin))
    for starts in forwards.values():
        by_stage = [begin for _, begin in sorted(starts)]
        assert by_stage == sorted(by_stage)
    assert 2.5e9 < max(ended.values()) - steps[0].start_ns < 3.3e9


def test_a_thin_demand_makes_bubbles_and_the_theory_says_so():
    def bubbles(at):
        deployment = script(at, Layout.parse("pp4")).deployments[0]
        return deployment.ideal_bubble_pct, [rank.bubble_pct for rank in deployment.ranks]

    ideal, measured = bubbles(THIN)
    assert ideal == 75
    assert min(measured) > 60
    assert bubbles(STEADY)[0] == 0


def test_the_late_rank_is_the_one_for_which_its_group_waits():
    ranks = script(LATE, Layout.parse("tp4")).deployments[0].ranks
    assert [rank.axes["tp"].late_ms > 1 for rank in ranks] == [False, False, False, True]
    straggled = [row.straggler for row in script(LATE, Layout.parse("tp4")).deployments[0].collectives if row.axis == "tp"]
    assert straggled == [3, 3]
    assert all(row.straggler is None for row in script(STEADY, Layout.parse("tp4")).deployments[0].collectives)


def test_hot_experts_slow_their_owner():
    deployment = script(CROWD, Layout.parse("ep4")).deployments[0]
    compute = [rank.compute_ms for rank in deployment.ranks]
    assert max(compute) == compute[2] > 1.2 * min(compute)
    per_owner = [sum(rank.expert_tokens) for rank in deployment.ranks]
    assert max(per_owner) == per_owner[2] > 1.5 * min(per_owner)


def test_the_dense_one_has_no_experts():
    assert script(STEADY, Layout.parse("ep4")).deployments[1].experts is None


def test_no_timeline_of_what_is_not_there():
    assert source(STEADY).timeline("gone") == ()
    assert source(155.0).timeline("qwen3-30b") == ()
