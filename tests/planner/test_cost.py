"""What a step costs: terms that add up, bytes on the wires, and directions that nothing may reverse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from asked import setup
from hypothesis import given
from hypothesis import strategies as st

from runtime.planner.collectives import all_reduce
from runtime.planner.cost import Setup, Terms, Work, bytes_per_token, expert_imbalance, experts_touched, remote_groups, step
from runtime.planner.hardware import find_gpu, over_pcie
from runtime.planner.names import load
from runtime.planner.parameters import Scale


def whole(setup: Setup, decodes: float, context: float, prompt: float = 0, reach: float = 0) -> Terms:
    return step(setup, Work(decodes, context, prompt, reach)).whole


TP = st.sampled_from([1, 2, 4, 8])


@given(TP, st.sampled_from([1, 2, 4]), st.floats(1, 512), st.floats(1, 20000))
def test_terms_are_never_negative_and_more_work_is_never_faster(tp: int, pp: int, batch: float, context: float) -> None:
    s = setup("llama-3.1-70b", tp=tp, pp=pp)
    now = whole(s, batch, context)
    assert all(term >= 0 for term in now)
    assert now.total <= whole(s, batch + 1, context).total
    assert now.total <= whole(s, batch, context + 100).total
    assert now.total < whole(s, batch, context, 64, 32).total
    assert step(s, Work(batch, context)).stage.total <= now.total


@given(st.sampled_from(["h100", "b200", "rtx-pro-6000", "l4"]), st.sampled_from([2, 4, 8]), st.floats(1e3, 1e9))
def test_all_reduce_grows_with_bytes(gpu: str, ranks: int, size: float) -> None:
    device = find_gpu(gpu)
    assert sum(all_reduce(device, "vllm", ranks, size)) <= sum(all_reduce(device, "vllm", ranks, 1.5 * size)) + 2e-6


def test_all_reduce_is_the_measured_one_and_a_wait() -> None:
    for size, microseconds in load("parameters")["all_reduce_us"]["h100"]["vllm"]["8"]:
        found = all_reduce(find_gpu("h100"), "vllm", 8, size)
        assert sum(found) * 1e6 == pytest.approx(microseconds + 11.5, rel=0.01)
    assert all_reduce(find_gpu("h100"), "vllm", 1, 1e6) == (0, 0)


def test_leaving_the_node_costs() -> None:
    gpu = find_gpu("h100")
    assert sum(all_reduce(gpu, "nccl", 16, 1e6)) > sum(all_reduce(gpu, "nccl", 8, 1e6))
    assert sum(all_reduce(over_pcie(gpu), "nccl", 8, 1e7)) > 5 * sum(all_reduce(gpu, "nccl", 8, 1e7))


def test_the_seeds_communication_volume_of_70b_at_tp4() -> None:
    """4 (t-1)/t h b L = 4 x 3/4 x 8192 x 2 x 80 bytes a token and GPU: two all-reduces a layer, not eight."""
    assert bytes_per_token(setup("llama-3.1-70b", tp=4))["tp"] == 4 * 3 / 4 * 8192 * 2 * 80 == 3_932_160


def test_bytes_go_over_the_axes_that_are_there() -> None:
    assert bytes_per_token(setup("llama-3.1-70b")) == {"tp": 0, "pp": 0, "ep": 0}
    piped = bytes_per_token(setup("llama-3.1-70b", pp=4))
    assert piped["pp"] == 8192 * 2 * 2
    mixed = setup("mixtral-8x7b", attention_dp=8, ep=8)
    assert remote_groups(mixed) == pytest.approx(7 * (1 - (7 / 8) ** 2))
    assert bytes_per_token(mixed)["ep"] == pytest.approx((1 + 2) * 4096 * remote_groups(mixed) * 32)


def test_experts_are_read_as_tokens_touch_them() -> None:
    one, many = (whole(setup("qwen3-30b-a3b"), batch, 100).weights for batch in (1, 256))
    assert 3 < many / one < 16
    assert expert_imbalance(8, 32) == 1
    assert expert_imbalance(8, 8192) == pytest.approx(1.6)


@pytest.mark.parametrize(("experts", "chosen"), [(128, 4), (256, 8), (8, 2), (16, 1)])
def test_popular_experts_are_touched_first(experts: int, chosen: int) -> None:
    """Against the sum over experts whose loads are spread evenly in their logarithm."""
    for tokens in (1, 2, 7, 32, 200, 3000, 60000):
        spread = max(1.0, 0.8 * tokens)
        popularity = [spread ** ((i + 0.5) / 1000) for i in range(1000)]
        loads = [tokens * chosen * p / sum(popularity) * 1000 / experts for p in popularity]
        expected = experts * sum(1 - math.exp(-load) for load in loads) / 1000
        found = experts_touched(experts, chosen, tokens)
        assert found == pytest.approx(expected, rel=0.02 if tokens > 2 * experts / chosen else 0.15)
        assert chosen * 0.999 <= found <= experts * 1.001
        assert found <= experts_touched(experts, chosen, tokens + 1)
    assert experts_touched(experts, chosen, 1) == pytest.approx(chosen)


def test_four_bits_without_their_tensor_cores_multiply_in_sixteen() -> None:
    hopper, blackwell = (setup("llama-3.1-70b", gpu, "nvfp4") for gpu in ("h200", "b200"))
    prompt = Work(0, 0, 4096, 2048)
    wide = step(setup("llama-3.1-70b", "h200", "bf16"), prompt).whole
    assert step(hopper, prompt).whole.compute == pytest.approx(wide.compute, rel=0.02)
    assert step(blackwell, prompt).whole.compute < wide.compute / 3


def test_each_factor_scales_its_own_term() -> None:
    s = setup("llama-3.1-70b", tp=8)
    now = whole(s, 4, 1000)
    slower = whole(replace(s, scale=Scale(latency=2, link=2)), 4, 1000)
    assert slower.all_reduce == pytest.approx(2 * now.all_reduce)
    assert slower.weights == now.weights
    assert whole(replace(s, scale=Scale(kernel=2, step=2)), 4, 1000).launch == pytest.approx(2 * now.launch)


def test_the_limit_is_the_longest_term() -> None:
    assert Terms(weights=1, kv=3, compute=2).limit == "kv"
    assert whole(setup("llama-3.1-70b"), 1, 100).limit == "weights"
    assert whole(setup("llama-3.1-8b"), 256, 16000).limit == "kv"
