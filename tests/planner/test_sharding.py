"""Which layouts there are, and which rule each impossible one breaks."""

from __future__ import annotations

import pytest
from asked import setup
from hypothesis import given
from hypothesis import strategies as st
from test_models import LLAMA, MIXTURE

from runtime import layout as runtime_layout
from runtime.checkpoint.config import parse_shape
from runtime.layout import Layout
from runtime.planner.models import find_model, read_model
from runtime.planner.parameters import engines, find_format
from runtime.planner.sharding import Sharding, broken_rules, layouts, preset, warnings

BF16 = find_format("bf16")


@pytest.mark.parametrize(
    ("gpus", "moe", "engine", "count"),
    [(8, False, "shardscope", 10), (8, True, "shardscope", 20), (8, True, "sglang", 50), (64, True, "shardscope", 84)],
)
def test_layouts_are_all_factorisations(gpus: int, moe: bool, engine: str, count: int) -> None:
    found = list(layouts(gpus, moe, engine))
    assert len(found) == len(set(found)) == count
    assert all(sharding.ranks == gpus and sharding.stage_ranks % sharding.ep == 0 for sharding in found)


@pytest.mark.parametrize(("name", "count"), [("llama-3-8b", 26), ("mixtral-8x7b", 72)])
def test_the_seeds_64_gpus(name: str, count: int) -> None:
    model = find_model(name)
    valid = [s for s in layouts(64, model.experts > 0) if not broken_rules(s, model, BF16)]
    assert len(valid) == count
    named = {"llama-3-8b": ["tp8pp8", "tp4pp4dp4", "tp8dp8"], "mixtral-8x7b": ["ep8tp8", "ep8tp4dp2", "ep8pp2tp4"]}[name]
    assert all(Sharding.of(Layout.parse(text)) in valid for text in named)


def test_the_1_8t_mixture_has_70_layouts_and_73_are_published() -> None:
    model = find_model("gpt-1.8t-moe")
    stated, published = preset("stated", model), preset("published", model)
    assert (len(stated), len(published)) == (70, 73)
    named = ["ep8dp8", "ep16dp4", "tp64", "ep16pp4", "tp4ep4pp4", "tp2ep16pp2"]
    for text in named:
        sharding = Sharding.of(Layout.parse(text))
        assert sharding in stated
        assert sharding in published
        assert not broken_rules(sharding, model, find_format("fp4"))


@pytest.mark.parametrize(
    ("model", "sharding", "form", "words"),
    [
        ("llama-3.1-70b", Sharding(tp=3), "bf16", "64 attention heads do not divide"),
        ("llama-3.1-8b", Sharding(pp=64), "bf16", "only 32 layers"),
        ("llama-3.1-8b", Sharding(attention_dp=2, ep=2), "bf16", "no experts"),
        ("mixtral-8x7b", Sharding(attention_dp=16, ep=16), "bf16", "8 experts do not divide"),
        ("qwen3-235b-a22b", Sharding(tp=8), "fp8-block", "1536 / 8 = 192 is no multiple of fp8-block's block of 128"),
        ("mixtral-8x7b", Sharding(tp=4, ep=3), "bf16", "does not divide the stage's 4 ranks"),
    ],
)
def test_a_broken_rule_names_its_values(model: str, sharding: Sharding, form: str, words: str) -> None:
    rules = broken_rules(sharding, find_model(model), find_format(form))
    assert any(words in rule for rule in rules)


@given(
    st.builds(Layout, dp=st.integers(1, 2), pp=st.integers(1, 8), ep=st.sampled_from([1, 2, 4, 8]), tp=st.integers(1, 9)),
    st.booleans(),
)
def test_planner_and_runtime_refuse_the_same_layouts(layout: Layout, moe: bool) -> None:
    config = LLAMA | (MIXTURE | {"architectures": ["Qwen3MoeForCausalLM"]} if moe else {})
    ours = broken_rules(Sharding.of(layout), read_model("test", config), BF16)
    assert bool(ours) == bool(runtime_layout.broken_rules(layout, parse_shape(config)))


@pytest.mark.parametrize("engine", engines())
def test_every_layout_has_a_name_of_its_own(engine: str) -> None:
    names = [str(sharding) for sharding in layouts(16, True, engine)]
    assert len(names) == len(set(names))


def test_costs_that_are_no_rules_are_warnings() -> None:
    found = setup("llama-3.1-405b", tp=16, pp=8)
    words = warnings(found.sharding, found.model, found.cluster)
    assert any("16 ranks leaves the 8 GPUs that nvlink joins" in word for word in words)
    uneven = setup("llama-3.1-8b", pp=24)
    assert any("uneven" in word for word in warnings(uneven.sharding, uneven.model, uneven.cluster))
