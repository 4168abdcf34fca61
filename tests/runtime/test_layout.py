"""Layouts: how they are written, which rank sits where, what a model cannot take, how layers and experts are divided."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.checkpoint.config import ModelShape, parse_shape
from runtime.checkpoint.synthetic import synthetic_config
from runtime.layout import (
    AXES,
    Layout,
    broken_rules,
    expert_owners,
    nearest_layouts,
    possible_layouts,
    stage_layers,
)

DEGREE = st.integers(1, 6)
LAYOUTS = st.builds(Layout, dp=DEGREE, pp=DEGREE, ep=DEGREE, tp=DEGREE)


def shape_of(family: str = "llama", **overrides: object) -> ModelShape:
    return parse_shape(synthetic_config(family, **overrides))


@given(LAYOUTS)
def test_what_is_written_is_read_again(layout: Layout) -> None:
    assert Layout.parse(str(layout)) == layout
    assert Layout.parse(str(layout).upper()) == layout


@given(LAYOUTS, st.permutations(AXES), st.sampled_from(["", " ", ",", ", "]), st.sampled_from(["", "=", "x"]))
def test_axes_come_in_any_order_and_spelling(layout: Layout, axes: list[str], between: str, sign: str) -> None:
    text = between.join(f"{axis}{sign}{getattr(layout, axis)}" for axis in axes)
    assert Layout.parse(text) == layout


@pytest.mark.parametrize("text", ["", "tp", "2", "tp2tp2", "tp0", "tp-1", "xp2", "tp2 zz", "tp2pp", "tp2.5", "tp2tp4"])
def test_what_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no layout|names an axis twice|a degree is a whole number"):
        Layout.parse(text)


@pytest.mark.parametrize(("axis", "degree"), [("tp", 0), ("pp", -1), ("ep", 1.5), ("dp", "2")])
def test_a_degree_is_a_whole_number(axis: str, degree: object) -> None:
    with pytest.raises(ValueError, match=rf"{axis} is {degree}"):
        Layout(**{axis: degree})


@given(LAYOUTS)
def test_each_rank_has_one_place(layout: Layout) -> None:
    places = [layout.coordinates(rank) for rank in range(layout.world_size)]
    assert len(set(places)) == layout.world_size
    assert set(places) == set(itertools.product(*(range(getattr(layout, axis)) for axis in AXES)))
    assert [layout.rank(at) for at in places] == list(range(layout.world_size))
    # tp runs fastest, then ep, pp, dp; a replica's ranks are neighbours
    assert places == sorted(places)
    assert [at.dp for at in places] == [rank // layout.replica_size for rank in range(layout.world_size)]


@given(LAYOUTS, st.sampled_from(AXES))
def test_groups_of_an_axis_partition_the_world(layout: Layout, axis: str) -> None:
    groups = {layout.group(rank, axis) for rank in range(layout.world_size)}
    assert sorted(rank for group in groups for rank in group) == list(range(layout.world_size))
    for group in groups:
        places = [layout.coordinates(rank) for rank in group]
        assert [getattr(at, axis) for at in places] == list(range(getattr(layout, axis)))
        assert len({at._replace(**{axis: 0}) for at in places}) == 1
        assert all(layout.group(rank, axis) == group for rank in group)


def largest_stage(shape: ModelShape, stages: list[range]) -> float:
    costs = [float(shape.active_layer_parameters(i)) for i in range(shape.num_layers)]
    head = shape.vocab_size * shape.hidden_size
    costs[0] += head / 10
    costs[-1] += head
    return max(sum(costs[i] for i in stage) for stage in stages)


@given(
    layers=st.integers(1, 9),
    pp=st.integers(1, 9),
    vocab=st.sampled_from([300, 1000, 20000]),
    dense=st.sets(st.integers(0, 8)),
)
def test_the_largest_stage_is_as_small_as_it_can_be(layers: int, pp: int, vocab: int, dense: set[int]) -> None:
    pp = min(pp, layers)
    shape = shape_of(
        "qwen3_moe", num_hidden_layers=layers, vocab_size=vocab, mlp_only_layers=sorted(d for d in dense if d < layers)
    )
    stages = stage_layers(shape, pp)
    assert [i for stage in stages for i in stage] == list(range(layers))
    assert len(stages) == pp
    assert all(stages)
    cuts = itertools.combinations(range(1, layers), pp - 1)
    others = ([range(a, b) for a, b in itertools.pairwise((0, *cut, layers))] for cut in cuts)
    assert largest_stage(shape, stages) == pytest.approx(min(largest_stage(shape, other) for other in others))


def test_the_stage_with_a_large_head_has_fewer_layers() -> None:
    small, large = (list(map(len, stage_layers(shape_of(num_hidden_layers=16, vocab_size=v), 4))) for v in (300, 8000))
    assert max(small) - min(small) <= 1
    assert large[-1] < min(large[:-1])


def test_the_embedding_counts_for_the_first_stage() -> None:
    first, second, _ = map(len, stage_layers(shape_of(num_hidden_layers=60, vocab_size=60000), 3))
    assert first < second


@given(st.integers(1, 64), st.integers(1, 16))
def test_every_expert_has_one_owner(experts: int, ep: int) -> None:
    ep = min(ep, experts)
    owners = expert_owners(experts, ep)
    assert [expert for owner in owners for expert in owner] == list(range(experts))
    sizes = list(map(len, owners))
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("layout", "overrides", "words"),
    [
        ("tp3", {"num_key_value_heads": 1, "intermediate_size": 321}, ["tp 3", "8 attention heads", "divide"]),
        ("tp4", {"num_attention_heads": 12, "num_key_value_heads": 6, "head_dim": 16}, ["tp 4", "6 kv heads", "divide"]),
        ("tp8", {"intermediate_size": 324}, ["tp 8", "intermediate_size 324", "divide"]),
        ("pp5", {}, ["pp 5", "4 layers", "at least"]),
        ("ep2", {}, ["ep 2", "no experts", "dp 2"]),
    ],
)
def test_a_broken_rule_names_its_values(layout: str, overrides: dict[str, object], words: list[str]) -> None:
    (rule,) = broken_rules(Layout.parse(layout), shape_of(**overrides))
    assert all(word in rule for word in words)


def test_broken_rules_of_a_mixture() -> None:
    mixture = shape_of("qwen3_moe", num_experts=6, moe_intermediate_size=84)
    assert broken_rules(Layout(ep=4, tp=4), mixture) == []
    assert "6 experts" in broken_rules(Layout(ep=7), mixture)[0]
    assert "intermediate size 84" in broken_rules(Layout(tp=8), mixture)[0]
    # nobody splits the dense size when no layer has it
    assert broken_rules(Layout(tp=4), shape_of("qwen3_moe", intermediate_size=321)) == []
    assert "321" in broken_rules(Layout(tp=4), shape_of("qwen3_moe", intermediate_size=321, mlp_only_layers=[0]))[0]


def test_every_broken_rule_is_told() -> None:
    rules = broken_rules(Layout(tp=3, pp=9, ep=2), shape_of())
    assert [rule.split(":")[0] for rule in rules] == ["tp 3", "tp 3", "tp 3", "pp 9", "ep 2"]


def test_more_ranks_than_kv_heads_is_possible() -> None:
    assert broken_rules(Layout(tp=8), shape_of(num_key_value_heads=2)) == []
    assert broken_rules(Layout(tp=8), shape_of(num_key_value_heads=1)) == []


@given(LAYOUTS, st.sampled_from(["llama", "mixtral", "qwen3_moe"]))
def test_the_nearest_layouts_are_possible_ones(layout: Layout, family: str) -> None:
    shape = shape_of(family)
    near = nearest_layouts(layout, shape)
    assert 1 <= len(near) <= 3
    assert len(set(near)) == len(near)
    assert all(not broken_rules(other, shape) for other in near)
    assert all(other.world_size <= layout.world_size for other in near)
    if not broken_rules(layout, shape):
        assert near[0] == layout
    # data parallelism alone always works: nobody is sent to fewer ranks without need
    assert near[0].world_size == layout.world_size


@given(st.integers(1, 24), st.sampled_from(["llama", "qwen3_moe"]))
def test_possible_layouts_are_exactly_those_that_break_no_rule(world_size: int, family: str) -> None:
    shape = shape_of(family)
    found = list(possible_layouts(shape, world_size))
    degrees = [d for d in range(1, world_size + 1) if world_size % d == 0]
    every = (Layout(*each) for each in itertools.product(degrees, repeat=4))
    assert set(found) == {each for each in every if each.world_size == world_size and not broken_rules(each, shape)}
    assert len(found) == len(set(found))
