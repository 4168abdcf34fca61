"""The search: quick enough to plan at every key, a front that nothing beats, a choice with its reason."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from asked import request

from runtime.planner.report import plan_lines, plan_object
from runtime.planner.scatter import scatter
from runtime.planner.search import Plan, Request, find_use_case, make_plan, pareto, use_cases, what_if

CHAT, VOICE, BATCH = (find_use_case(name) for name in ("chat", "voice", "batch"))


def calls(asked: Request) -> int:
    """Of functions that one search makes, Python's and others': what it takes on a machine of any pace."""
    found = 0

    def count(_frame: object, event: str, _of: object) -> None:
        nonlocal found
        found += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        make_plan(asked, CHAT)
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize(
    ("asked", "limit"),
    [
        (request("llama-3.1-70b"), 150_000),
        (request("qwen3-235b-a22b", engine="sglang"), 150_000),
        (request("deepseek-v3", gpus=1024), 3_000_000),
        (request("llama-3.1-405b", gpus=1024), 3_000_000),
    ],
)
def test_it_answers_as_one_types(asked: Request, limit: int) -> None:
    """Python makes some three million calls a second: 50 ms for 8 GPUs, 1 s for 1,024."""
    assert calls(asked) < limit


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(request("llama-3.1-70b", isl=2048, osl=128), CHAT)


def test_nothing_beats_the_front(plan: Plan) -> None:
    points = [point for entry in plan.entries for point in entry.points]
    assert plan.front == pareto(points)
    for point in points:
        beaten = any(f.tokens_s_gpu >= point.tokens_s_gpu and f.tokens_s_user >= point.tokens_s_user for f in plan.front)
        assert beaten
    gains = [(p.tokens_s_user, -p.tokens_s_gpu) for p in plan.front]
    assert gains == sorted(gains, reverse=True)


def test_the_choice_keeps_the_limits_and_says_what_limits_it(plan: Plan) -> None:
    assert plan.choice is not None
    assert plan.choice.met
    best = plan.choice.point
    within = [p for entry in plan.entries for p in entry.points if CHAT.met(p)]
    assert best.tokens_s_gpu == max(p.tokens_s_gpu for p in within)
    longest = max(best.step._asdict(), key=lambda name: getattr(best.step, name))
    share = getattr(best.step, longest) / best.step.total
    limit = f"{longest.replace('_', '-')} {share:.0%} of a step"
    if best.prompts > best.tpot - best.prompts:
        limit = f"prompts {best.prompts / best.tpot:.0%} of TPOT"
    assert limit in plan.choice.reason
    assert "\n" not in plan.choice.reason


def test_use_cases_want_different_things() -> None:
    asked = request("llama-3.1-70b", isl=512, osl=128)
    chosen = {name: make_plan(asked, find_use_case(name)).choice for name in use_cases()}
    voice, batch = chosen["voice"], chosen["batch"]
    assert voice is not None
    assert batch is not None
    assert voice.point.tokens_s_user > batch.point.tokens_s_user
    assert batch.point.tokens_s_gpu >= voice.point.tokens_s_gpu
    assert voice.point.sharding.pp == 1  # a pipeline does not shorten a token, whatever a seed's table says


def test_limits_that_nothing_meets_are_said() -> None:
    found = make_plan(request("llama-3.1-405b", "a100", 16, weights="bf16", concurrency=256), VOICE).choice
    assert found is not None
    assert not found.met
    assert "no layout meets voice" in found.reason
    assert "wanted" in found.reason


def test_nothing_fits() -> None:
    plan = make_plan(request("llama-3.1-405b", "l4", 4, weights="bf16"), CHAT)
    assert plan.choice is None
    assert all(entry.verdict.word == "no" and entry.verdict.change for entry in plan.entries)
    assert "6 layouts are out" in "\n".join(plan_lines(plan))


def test_the_seeds_405b_on_16_gpus() -> None:
    """bf16 weights need all 16: TP inside the node and stages between yield most, TP over both nodes answers one user soonest.
    Where prompts are cut so that stages work side by side, more of them pay."""
    asked = request("llama-3.1-405b", "h100", 16, weights="bf16", isl=1024, osl=256)
    plan = make_plan(asked, BATCH)
    assert {str(entry.sharding) for entry in plan.entries if entry.runs} == {"tp16", "tp8pp2", "tp4pp4", "tp2pp8", "pp16"}
    fastest = make_plan(replace(asked, concurrency=1), VOICE).choice
    assert plan.choice is not None
    assert fastest is not None
    assert str(plan.choice.point.sharding) == "tp4pp4"
    whole_prompts = make_plan(replace(asked, engine="trtllm"), BATCH).choice
    assert whole_prompts is not None
    assert str(whole_prompts.point.sharding) == "tp8pp2"
    assert str(fastest.point.sharding) == "tp16"
    assert fastest.point.step.all_reduce > 0.3 * fastest.point.step.total


def test_what_if(plan: Plan) -> None:
    found = dict(what_if(plan))
    assert set(found) == {"one more GPU", "twice the GPUs", "4x the input", "PCIe for NVLink"}
    now = plan.choice
    assert now is not None
    yields = {words: choice.point.tokens_s if choice else 0.0 for words, choice in found.items()}
    assert yields["one more GPU"] >= now.point.tokens_s
    assert yields["twice the GPUs"] >= 1.9 * now.point.tokens_s
    assert yields["4x the input"] < now.point.tokens_s
    assert yields["PCIe for NVLink"] <= now.point.tokens_s
    assert "int8 weights" in dict(what_if(make_plan(request("llama-3.1-70b", weights="bf16"), CHAT)))


def test_the_object_is_json_and_whole(plan: Plan) -> None:
    found = json.loads(json.dumps(plan_object(plan), allow_nan=False))
    assert len(found["layouts"]) == 10
    point = found["choice"]
    assert {"weights", "kv", "compute", "all_reduce", "all_to_all", "hand_over", "launch"} == set(point["step_ms"])
    assert {"ttft_ms", "tpot_ms", "prompts_ms", "tpot_e2e_ms", "tokens_s", "limit", "bubble", "bytes_per_token", "amdahl"} <= set(
        point
    )
    assert found["request"]["calibrated"] is False
    assert found["request"]["band"] == 0.25
    assert {"weights", "activations", "context", "kv"} <= set(found["layouts"][0]["memory"])


def test_the_table_says_uncalibrated_and_names_every_layout(plan: Plan) -> None:
    text = "\n".join(plan_lines(plan))
    assert "uncalibrated (+-25%)" in text
    assert all(str(entry.sharding) in text for entry in plan.entries)
    assert "\x1b" not in text
    assert "70 layouts by" in "\n".join(plan_lines(make_plan(request("gpt-1.8t-moe", "b200-192gb", 64, weights="fp4"), CHAT)))


def test_the_plot_puts_marks_where_they_belong() -> None:
    lines = scatter([(0, 0, "a"), (10, 5, "b"), (5, 5, "c")], "x", "y", width=11, height=3)
    assert lines[1] == "5 |     c    b"
    assert lines[3] == "0 |a"
    assert scatter([], "x", "y") == []
