"""Experts on a screen: levels as glyphs, balance of layers and members, and a placement that is really evener."""

import re

import pytest
from driving import dashboard, reached, redrawn
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from scenes import FAILED, FEED, LOADING, STEADY, STRAGGLER, alone, scene
from terminal import shown

from telemetry.snapshot import ExpertsView
from tui import keys
from tui.screens.experts import ExpertsScreen
from tui.view.experts import SORTS, Look, balances, experts, hottest, max_over_mean, moved, next_hottest, ordered
from tui.view.heat import board, cells, glyph, owner_line, tick_line
from tui.view.line import text
from tui.view.options import Feed, Options
from tui.view.placement import imbalance, member_loads, rebalanced

CROWD = 108.0
KEYS = keys.EXPERTS + keys.VIEW + keys.APP
SMALL = ExpertsView((3, 7), (0, 0, 1, 1), ((10, 10, 10, 10), (0, 0, 20, 60)))


def lines_of(snapshot, columns=119, rows=40, feed=FEED, **look):
    frame = experts(snapshot, feed, Options(), Look(**look), KEYS, columns, rows)
    return [text(line) for line in (*frame.head, *frame.body, *frame.panels, *frame.foot)]


def of(view):
    return alone(scene(), experts=view)


def layer_row(lines, layer):
    return next(line for line in lines if re.match(rf"[ ▸]L{layer} ", line))


@pytest.mark.parametrize(
    ("ratio", "sign"), [(0.0, "_"), (0.01, "."), (0.5, ":"), (1.0, ":"), (1.25, "o"), (1.75, "O"), (2.49, "O"), (2.5, "@")]
)
def test_a_level_is_a_glyph(ratio, sign):
    assert glyph(ratio) == sign


def test_a_cell_is_its_experts_share_and_owners_stand_apart():
    shape = board(SMALL.owners, 40)
    assert text(cells(shape, SMALL.tokens[0], 0, 12)) == ": :   : :   "
    assert text(cells(shape, SMALL.tokens[1], 0, 12)) == "_ _   : @   "
    assert text(owner_line(shape, ["e0", "e1"], 0, 12)).rstrip() == "e0    e1"
    assert text(tick_line(shape, 2, 0, 12)).rstrip() == "0     ▾"
    assert text(cells(board(SMALL.owners, 6), SMALL.tokens[1], 0, 6)) == "__  :@"
    assert text(cells(shape, (0, 0, 0, 0), 0, 8)).strip() == ""


def test_experts_stand_by_owner_whatever_their_numbers():
    shape = board((1, 0, 1, 0), 20)
    assert shape.order == (1, 3, 0, 2)
    assert text(cells(shape, (90, 1, 1, 8), 0, 9)) == ". .   @ ."


@pytest.mark.parametrize("room", [1, 7, 40, 63, 200])
def test_scrolling_sideways_keeps_the_marked_expert_in_sight(room):
    shape = board(tuple(e // 32 for e in range(128)), room)
    for expert in range(128):
        offset = shape.offset(expert, room)
        assert 0 <= shape.left[shape.order.index(expert)] - offset < room
        assert "▾" in text(tick_line(shape, expert, offset, room))


@pytest.mark.parametrize("room", [7, 40, 58, 200])
def test_no_number_above_the_cells_is_cut_and_the_owner_in_sight_is_named(room):
    shape = board(tuple(e // 64 for e in range(128)), room)
    for marked in range(128):
        offset = shape.offset(marked, room)
        ticks = text(tick_line(shape, marked, offset, room))
        for said in re.finditer(r"\d+", ticks):
            assert shape.order[shape.left.index(offset + said.start())] == int(said[0])
        first = next(expert for expert in shape.order if shape.left[shape.order.index(expert)] >= offset)
        assert text(owner_line(shape, ["a", "b"], offset, room)).strip().startswith("ab"[first // 64])


def test_balance_of_experts_and_members():
    assert [max_over_mean(row) for row in SMALL.tokens] == [1.0, 3.0]
    assert max_over_mean((0, 0)) is None
    assert balances(SMALL) == [1.0, 0.5]
    assert balances(replace(SMALL, owners=(0, 0, 0, 0))) == [None, None]
    assert balances(replace(SMALL, tokens=((0, 0, 0, 0), (1, 1, 1, 1)))) == [None, 1.0]
    assert [SMALL.layers[i] for i in ordered(SMALL, "max/mean")] == [7, 3]
    assert [SMALL.layers[i] for i in ordered(SMALL, "balance")] == [7, 3]
    assert [SMALL.layers[i] for i in ordered(SMALL, "layer")] == [3, 7]


def test_the_hottest_come_first_each_once():
    assert hottest(SMALL, 2) == [(7, 3, 3.0), (3, 0, 1.0)]
    assert len({cell.expert for cell in hottest(scene(STEADY, "ep4").deployments[0].experts, 20)}) == 20
    assert hottest(replace(SMALL, tokens=((0,) * 4,) * 2), 5) == []


def test_loads_and_imbalance_by_hand():
    assert member_loads(SMALL.tokens, SMALL.owners, 2) == [[20, 20], [0, 80]]
    assert imbalance(SMALL.tokens, SMALL.owners, 2) == pytest.approx((20 + 80) * 2 / 120)
    assert imbalance(((0, 0),), (0, 1), 2) is None


def test_rebalancing_spreads_hot_neighbours():
    tokens = ((50, 50, 1, 1), (40, 60, 2, 2))
    found = rebalanced(tokens, (0, 0, 1, 1), 2)
    assert found.before == pytest.approx(2 * (100 + 100) / 206)
    assert found.after == imbalance(tokens, found.owners, 2) < 1.2
    assert sorted(found.owners) == [0, 0, 1, 1]
    assert len(found.moves) == 2
    for move in found.moves:
        assert (0, 0, 1, 1)[move.expert] == move.source != move.target == found.owners[move.expert]


def test_nothing_is_proposed_that_is_no_better():
    assert rebalanced(((1, 1, 1, 1),), (0, 0, 1, 1), 2) is None
    assert rebalanced(((9, 1, 1, 1),), (0, 0, 0, 0), 1) is None
    assert rebalanced(((0, 0),), (0, 1), 2) is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_proposal_is_evener_and_as_large_for_every_member(data):
    members = data.draw(st.integers(2, 4))
    owners = tuple(data.draw(st.permutations([e % members for e in range(data.draw(st.integers(members, 12)))])))
    row = st.lists(st.integers(0, 1000), min_size=len(owners), max_size=len(owners))
    tokens = data.draw(st.lists(row, min_size=1, max_size=4))
    found = rebalanced(tokens, owners, members)
    if found is not None:
        assert found.after < found.before
        assert found.after == pytest.approx(imbalance(tokens, found.owners, members))
        assert sorted(found.owners) == sorted(owners)
        assert {move.expert for move in found.moves} == {e for e in range(len(owners)) if owners[e] != found.owners[e]}


def test_a_hot_expert_is_seen_and_named():
    lines = lines_of(scene(STEADY, "ep4"), 199, 60)
    assert "@" in layer_row(lines, 30)
    assert "@" not in layer_row(lines, 3)
    assert any("E70 L28 5.1x on e2" in line for line in lines)
    assert re.search(r" 5\.\d  +0\.\d\d", layer_row(lines, 30))


def test_hot_members_are_marked_and_a_better_placement_found():
    snapshot = scene(CROWD, "ep4")
    lines = lines_of(snapshot, 199, 60)
    assert layer_row(lines, 3).rstrip().endswith("!")
    assert not layer_row(lines_of(scene(STEADY, "ep4"), 199, 60), 3).rstrip().endswith("!")
    view = snapshot.deployments[0].experts
    found = rebalanced(view.tokens, view.owners, 4)
    assert found.before > 1.6
    assert found.after < 1.1
    assert len(found.moves) < 40
    said = "\n".join(lines_of(snapshot, 199, 60, asked=True, preview=found))
    assert f"{found.before:.2f}x → {found.after:.2f}x, {len(found.moves)} of 128 experts move" in said
    assert "nothing to gain" in "\n".join(lines_of(scene(STEADY, "tp2"), asked=True))


def test_one_expert_over_all_layers():
    said = "\n".join(lines_of(of(SMALL), layer=7, expert=3, detail=True))
    assert "E3  on e1:" in said
    assert "L7: 60 tokens, 3.00x the mean" in said
    assert "all layers: 58.33% of tokens" in said
    assert "hottest in L7, 3.0x" in said


def test_a_dense_model_is_told_in_plain_words():
    dense = alone(scene(), experts=None)
    for columns, rows in ((79, 24), (199, 60)):
        assert any("no experts to show: the model is dense" in line for line in lines_of(dense, columns, rows))
    assert "shardscope deploy" in "".join(lines_of(replace(scene(), deployments=())))
    assert any("no experts" in line for line in lines_of(scene(LOADING)))
    assert any("no experts" in line for line in lines_of(of(ExpertsView((), (), ()))))


def test_a_layer_without_tokens_is_unavailable_and_not_even():
    idle = replace(SMALL, tokens=((0, 0, 0, 0), SMALL.tokens[1]))
    assert layer_row(lines_of(of(idle)), 3).split()[-2:] == ["--", "--"]


def test_stale_and_paused_are_said():
    assert "STALE 14 s" in lines_of(scene(), feed=Feed("live", 14.0))[0]
    assert "PAUSED 33 s" in lines_of(scene(), feed=Feed("live", 0.2, paused_s=33.0))[0]


def test_hostile_names_cannot_break_a_line():
    nasty = alone(scene(STEADY, "ep4"), name="evil\x1b[2J\n" + "世" * 200, device="\x1b]0;x\x07")
    for line in lines_of(nasty, 79, 24):
        assert line.isprintable()
        assert len(line) <= 79


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 100),
    st.sampled_from([("ep2tp2pp2", CROWD), ("tp2", STEADY), ("ep4", STRAGGLER), ("ep4", FAILED), ("pp4", LOADING)]),
    st.builds(
        Look,
        layer=st.integers(-1, 60),
        expert=st.integers(-1, 200),
        sort=st.sampled_from(SORTS),
        detail=st.booleans(),
        asked=st.booleans(),
    ),
)
def test_any_size_draws_within_it(columns, rows, moment, look):
    layout, at = moment
    frame = experts(scene(at, layout), FEED, Options(), look, KEYS, columns, rows)
    assert len(frame.head) + len(frame.panels) + len(frame.foot) <= rows + 3
    assert max(len(text(line)) for line in (*frame.head, *frame.body, *frame.panels, *frame.foot)) <= columns


def test_a_large_model_draws():
    """256 experts in 58 layers, as DeepSeek-V3 has them, over 8 members."""
    large = ExpertsView(
        tuple(range(3, 61)), tuple(e // 32 for e in range(256)), tuple(tuple((e * i) % 97 for e in range(256)) for i in range(58))
    )
    lines = lines_of(of(large), 79, 24)
    assert layer_row(lines, 60)
    assert any("arrows scroll" in line for line in lines)


def test_moving_stays_on_the_board():
    look = Look()
    for down, right in ((-1, -1), (1, 1), (99, 99), (0, -1), (-99, -99)):
        look = moved(SMALL, look, down, right)
        assert look.layer in SMALL.layers
        assert 0 <= look.expert < 4
    assert (look.layer, look.expert) == (3, 0)
    first = next_hottest(SMALL, Look())
    second = next_hottest(SMALL, first)
    assert [(found.layer, found.expert) for found in (first, second)] == [(7, 3), (3, 0)]


async def at_experts(app, pilot):
    await pilot.press("5")
    return await reached(app, pilot, ExpertsScreen)


async def test_5_shows_them_and_arrows_scroll_both_ways():
    async with dashboard(STEADY, "ep4", (80, 24)) as (app, pilot):
        lines = await at_experts(app, pilot)
        assert layer_row(lines, 0).startswith("▸")
        await pilot.press(*["down"] * 3, *["pagedown"] * 2, *["right"] * 70)
        await redrawn(app, pilot)
        await pilot.pause()
        lines = shown(app)
        assert layer_row(lines, 23).startswith("▸")
        ticks = next(line for line in lines if "▾" in line)
        assert "64" in ticks
        assert " 0 " not in ticks
        await pilot.press("pageup", "up", "left", "j", "k")
        await redrawn(app, pilot)
        await pilot.pause()
        assert layer_row(shown(app), 12).startswith("▸")


async def test_enter_shows_the_marked_expert_and_escape_closes():
    async with dashboard(STEADY, "ep4") as (app, pilot):
        await at_experts(app, pilot)
        await pilot.press("n", "enter")
        assert any("── E70  on e2: r2 " in line for line in await redrawn(app, pilot))
        await pilot.press("right")
        assert any("── E71  on e2: r2 " in line for line in await redrawn(app, pilot))
        await pilot.press("escape")
        assert any("── balance" in line for line in await redrawn(app, pilot))


async def test_b_shows_a_better_placement_that_stays_while_tokens_go_on():
    async with dashboard(CROWD, "ep4") as (app, pilot):
        await at_experts(app, pilot)
        await pilot.press("b")
        said = next(line for line in await redrawn(app, pilot) if "busiest member over the mean" in line)
        app.clock.now += 1.0
        assert said in await redrawn(app, pilot)
        await pilot.press("b")
        assert not any("another placement" in line for line in await redrawn(app, pilot))


async def test_s_puts_the_least_even_layers_first():
    async with dashboard(STEADY, "ep4") as (app, pilot):
        await at_experts(app, pilot)
        await pilot.press("s")
        lines = await redrawn(app, pilot)
        assert any("by max/mean" in line for line in lines)
        first = next(line for line in lines if re.match("[ ▸]L", line))
        assert 28 <= int(first[2:4]) <= 33
        for sort in ("balance", "layer"):
            await pilot.press("s")
            assert any(f"by {sort}" in line for line in await redrawn(app, pilot))


async def test_the_other_deployment_is_dense():
    async with dashboard(STEADY, "ep4") as (app, pilot):
        await at_experts(app, pilot)
        await pilot.press("tab")
        assert any("the model is dense" in line for line in await redrawn(app, pilot))
        await pilot.press("b", "enter", "n", "down", "s", "escape")
        assert any("the model is dense" in line for line in await redrawn(app, pilot))
