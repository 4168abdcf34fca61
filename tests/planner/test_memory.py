"""What a rank holds, and the verdict: fits, tight, or no with the smallest change that does."""

from __future__ import annotations

import pytest
from asked import setup

from runtime.planner.memory import Verdict, cache_format, precision, rank_memory, rank_weights, sequences, verdict
from runtime.planner.models import find_model
from runtime.planner.parameters import find_engine


def judged(model: str, gpu: str, wanted: float = 1, isl: int = 1000, osl: int = 1000, **more: object) -> Verdict:
    s = setup(model, gpu, **more)
    return verdict(s.model, s.sharding, s.cluster, s.form, s.engine, isl, osl, wanted)


@pytest.mark.parametrize(
    ("engine", "weights", "kept"),
    [
        ("trtllm", "fp8", "fp8"),
        ("trtllm", "bf16", "bf16"),
        ("trtllm", "float32", "fp32"),
        ("tensorrt-llm", "nvfp4", "fp8"),
        ("vllm", "fp8", "fp8"),
        ("vllm", "fp16", "fp16"),
        ("shardscope", "int8", "bf16"),
        ("shardscope", "fp32", "fp32"),
    ],
)
def test_an_engine_quantises_the_cache_with_the_weights(engine: str, weights: str, kept: str) -> None:
    kv = cache_format(find_engine(engine).kv, weights)
    assert precision(find_model("llama-3.1-8b"), weights, kv).kv.name == kept


@pytest.mark.parametrize(("tp", "gigabytes"), [(2, 70), (4, 35), (8, 17.5)])
def test_the_seeds_70b_by_tp(tp: int, gigabytes: float) -> None:
    s = setup("llama-3.1-70b", weights="fp16", tp=tp)
    assert rank_weights(s.model, s.sharding, s.form) / 1e9 == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize("degrees", [{"tp": 8}, {"pp": 8}, {"tp": 2, "pp": 4}])
def test_the_seeds_175b_on_eight(degrees: dict[str, int]) -> None:
    """44 GB each; the article's 88 GB for TP2 x PP4 splits over four GPUs only. Stages carry an embedding more."""
    s = setup("gpt-3-175b", "a100", weights="fp16", **degrees)
    assert rank_weights(s.model, s.sharding, s.form) / 1e9 == pytest.approx(43.75, rel=0.03)


def test_a_tied_embedding_is_stored_once_or_where_two_stages_need_it() -> None:
    one, two = setup("llama-3.2-1b", weights="bf16"), setup("llama-3.2-1b", weights="bf16", pp=2)
    whole = rank_weights(one.model, one.sharding, one.form)
    half = rank_weights(two.model, two.sharding, two.form)
    assert 2 * half == pytest.approx(whole + one.model.embedding * 2, rel=0.01)


def test_every_rank_shares_the_parts_add_up_to() -> None:
    s = setup("llama-3.1-70b", tp=4)
    memory = rank_memory(s.model, s.sharding, s.gpu, s.form, s.engine)
    assert memory.weights + memory.activations + memory.context + memory.kv + memory.reserved == pytest.approx(memory.total)
    assert memory.kv_token == 327_680 / 2 / 4


def test_pp_splits_the_cache_by_layers_and_tp_by_heads() -> None:
    by = {name: setup("llama-3.1-70b", **{name: 8}) for name in ("tp", "pp")}
    tokens = {name: rank_memory(s.model, s.sharding, s.gpu, s.form, s.engine).kv_token for name, s in by.items()}
    assert tokens["tp"] == tokens["pp"]


def test_fp8_70b_on_one_h100_is_tight_as_it_was_in_practice() -> None:
    assert judged("llama-3.1-70b", "h100", wanted=64, engine="trtllm").word == "tight"
    assert judged("llama-3.1-70b", "h200", wanted=32, engine="trtllm").word == "fits"


def test_what_does_not_fit_comes_with_the_smallest_change() -> None:
    found = judged("llama-3.1-70b", "h100", weights="bf16", dp=8)
    assert found.word == "no"
    assert "leave 0 tokens of cache" in found.reason
    assert found.change == "tp2dp4 on the same 8 GPUs" or found.change == "tp4dp2 on the same 8 GPUs"
    assert judged("llama-3.1-70b", "a100", weights="bf16").change == "fp8 weights"
    assert judged("llama-3.1-405b", "h100", weights="fp8", tp=4).change.startswith("int4 weights")
    assert "GPUs" in judged("deepseek-v3", "l4", weights="fp8", tp=4).change


def test_the_change_fits() -> None:
    before, after = (
        judged("llama-3.1-70b", "h100", weights="bf16", dp=8),
        judged("llama-3.1-70b", "h100", weights="bf16", tp=4, dp=2),
    )
    assert (before.word, after.word) == ("no", "fits")


def test_reserving_output_holds_fewer_requests_than_growing_into_it() -> None:
    full, mean = setup("llama-3.1-70b", engine="trtllm"), setup("llama-3.1-70b", engine="vllm")
    room = {s.engine.reserve: rank_memory(s.model, s.sharding, s.gpu, s.form, s.engine) for s in (full, mean)}
    assert sequences(full.model, room["full"], full.engine, 128, 2048) < sequences(
        mean.model, room["mean"], mean.engine, 128, 2048
    )
