"""A plan in words: nothing wider than the terminal, whole lines elsewhere, what is to be known of every layout."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from asked import request

from runtime.planner.report import plan_lines, requests, validation_lines
from runtime.planner.search import Plan, choose, find_use_case, make_plan
from runtime.planner.validation import Score, Validation

CHAT = find_use_case("chat")

PLANS = {
    "many layouts": make_plan(request("deepseek-v3", gpus=16, weights="fp8-block", source="deepseek-v3"), CHAT),
    "large figures": make_plan(request("qwen3-0.6b", "b200", 8, isl=64, osl=8), find_use_case("batch")),
    "at a rate": make_plan(request("llama-3.1-70b", rate=2.0), CHAT),
    "too high a rate": make_plan(request("llama-3.1-70b", rate=1e6), CHAT),
    "nothing fits": make_plan(request("llama-3.1-405b", "l4", 4, weights="bf16"), CHAT),
    "two presets": make_plan(request("gpt-1.8t-moe", "b200-192gb", 64, weights="fp4"), CHAT),
}


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_no_line_is_wider_than_the_terminal(plan: Plan, columns: int) -> None:
    assert max(map(len, plan_lines(plan, columns))) <= columns


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_wrapping_loses_no_word(plan: Plan, columns: int) -> None:
    """Columns of the table give way, sentences do not."""

    def sentences(lines: list[str]) -> list[str]:
        whole = " ".join(lines)
        return whole.partition(" take ")[2].split() + re.findall(r"would fit: \S+", " ".join(whole.split()))

    assert sentences(plan_lines(plan, columns)) == sentences(plan_lines(plan))


def test_lines_that_go_elsewhere_are_whole() -> None:
    lines = plan_lines(PLANS["many layouts"])
    assert max(map(len, lines)) > 120
    assert len([line for line in lines if line.startswith("take ")]) == 1
    assert lines[2].split() == [
        *("layout", "fit", "weights", "kv", "batch", "ttft", "tpot", "e2e/tok", "tok/s", "/GPU", "/user", "comm/tok", "bubble"),
        "limit",
    ]


@pytest.mark.parametrize("columns", [40, 60, 80, None])
def test_the_figures_that_decide_stay_and_only_what_is_shown_is_explained(columns: int | None) -> None:
    lines = plan_lines(PLANS["many layouts"], columns)
    shown = next(line for line in lines if line.startswith("layout")).split()
    assert {"layout", "tpot", "/user"} <= set(shown)
    text = " ".join(lines)
    assert {name for name in ("e2e/tok: ", "comm/tok: ", "limit: ") if name in text} == {
        f"{name}: " for name in ("e2e/tok", "comm/tok", "limit") if name in shown
    }


@pytest.mark.parametrize("name", ["many layouts", "large figures", "at a rate", "two presets"])
def test_the_choice_stands_first(name: str) -> None:
    """At a rate all that keep up yield the same: what a user gets decides."""
    plan = PLANS[name]
    lines = plan_lines(plan)
    assert plan.choice is not None
    assert lines[4].split()[0] == str(plan.choice.point.sharding)


def test_between_layouts_that_keep_up_a_user_decides() -> None:
    points = [point for entry in PLANS["at a rate"].entries for point in entry.points if CHAT.met(point)]
    slower_first = sorted(points, key=lambda point: point.tokens_s_user)
    yields_more_by_noise = replace(slower_first[0], tokens_s=slower_first[0].tokens_s * (1 + 1e-12))
    found = choose([yields_more_by_noise, *slower_first[1:]], CHAT)
    assert found is not None
    assert found.point is slower_first[-1]


def test_what_is_never_reached_is_said_in_words() -> None:
    for use_case in ("chat", "batch"):
        plan = make_plan(PLANS["too high a rate"].request, find_use_case(use_case))
        text = "\n".join(plan_lines(plan))
        assert "never" in text
        assert f"no layout meets {use_case}; " in text
        assert re.search(r"its queue grows without end \(1e\+06 requests/s wanted, [\d.]+ served\)", text)
        assert not re.search(r"\b(inf|nan)\b", text)
        most = max(point.tokens_s for entry in plan.entries for point in entry.points)
        assert plan.choice is not None
        assert plan.choice.point.tokens_s == most


@pytest.mark.parametrize(
    ("count", "words"), [(1, "1 request"), (12.4, "12 requests"), (0.2, "0.2 requests"), (1e-9, "0.01 requests")]
)
def test_requests_in_flight(count: float, words: str) -> None:
    assert requests(count) == words


@pytest.mark.parametrize(
    ("gpu", "weights", "words"),
    [
        ("t4", "bf16", "t4 has no bfloat16: take float16"),
        ("a100", "fp8", "a100 multiplies no fp8: fp8 weights are expanded as they are read"),
        ("h100", "bf16", None),
    ],
)
def test_what_a_device_lacks_is_worth_knowing(gpu: str, weights: str, words: str | None) -> None:
    text = "\n".join(plan_lines(make_plan(request("llama-3.2-1b", gpu, 1, weights=weights), CHAT)))
    assert ("worth knowing" in text) == (words is not None)
    assert words is None or words in text


def test_what_our_runtime_cannot_serve_is_worth_knowing() -> None:
    def text(**how: object) -> str:
        return "\n".join(plan_lines(make_plan(request("gpt-oss-20b", "h100", 1, source="gpt-oss-20b", **how), CHAT)))

    assert "no mxfp4 weights" in text(weights="mxfp4")
    assert "model_type 'gpt_oss' is not supported" in text(weights="bf16")
    assert "shardscope" not in text(weights="mxfp4", engine="vllm").partition("worth knowing")[2]


def test_a_tpots_parts_add_up() -> None:
    line = next(line for line in plan_lines(PLANS["two presets"]) if "TPOT" in line and " = a step's " in line)
    whole, parts = re.search(r"TPOT ([\d.]+) ms = a step's (.*?) for prompts", line).groups()  # type: ignore[union-attr]
    assert sum(map(float, re.findall(r"\d+\.\d+", parts))) == pytest.approx(float(whole), abs=0.02)


def test_a_validation_fits_too() -> None:
    found = Validation([Score("a group of a long name", "tpot_ms", 10, 0.1, 0.1, 0.0, 0.9)], [], {1: "a reason " * 20})
    assert max(map(len, validation_lines(found, 80))) <= 80
    assert max(map(len, validation_lines(found))) > 120
