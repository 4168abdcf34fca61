"""Our greedy tokens are transformers' tokens: for every family, under every layout, however the work is cut up."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoints import MakeCheckpoint, oracle_greedy, oracle_model

from runtime.checkpoint.config import ModelShape, read_shape
from runtime.daemon.launcher import Zygote
from runtime.layout import Layout, stage_layers
from runtime.llm import LLM
from runtime.sampling import SamplingParams

NEW_TOKENS = 64
LENGTHS = (1, 5, 16, 17, 33, 64, 100, 200)
BLOCK = 16
DENSE = ("llama", "llama3", "mistral", "qwen2", "qwen3")
MIXTURES = ("mixtral", "qwen3_moe")
LAYOUTS = ("tp1", "tp2", "tp4", "pp2", "pp3", "tp2pp2", "dp2")
EXPERT_LAYOUTS = ("ep2", "ep4", "ep2tp2", "ep2pp2", "ep2dp2")
GREEDY = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)


def _cases() -> Iterator[pytest.param]:
    """The first family of each kind under every layout, every family under one mix; all other pairs are slow."""
    for family in (*DENSE, *MIXTURES):
        for layout in (*LAYOUTS, *(EXPERT_LAYOUTS if family in MIXTURES else ())):
            quick = family in ("llama3", "qwen3_moe") or layout in ("tp2pp2", "ep2tp2")
            yield pytest.param(family, layout, marks=() if quick else pytest.mark.slow, id=f"{family}-{layout}")


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as made:
        yield made


@functools.cache
def prompts_for(vocab_size: int) -> list[list[int]]:
    numbers = random.Random(0)
    return [[numbers.randrange(10, vocab_size) for _ in range(length)] for length in LENGTHS]


@functools.cache
def expected(path: Path) -> list[list[int]]:
    return [oracle_greedy(path, prompt, NEW_TOKENS).tokens for prompt in prompts_for(read_shape(path).vocab_size)]


def tokens_of(llm: LLM) -> list[list[int]]:
    return [out.outputs[0].token_ids for out in llm.generate(prompts_for(llm.shape.vocab_size), GREEDY)]


def scarce(shape: ModelShape, layout: Layout, blocks: int) -> int:
    """KV bytes a rank for so many blocks on the rank with the most layers."""
    layers = max(map(len, stage_layers(shape, layout.pp)))
    heads = -(-shape.num_kv_heads // layout.tp)
    return blocks * BLOCK * 2 * heads * shape.head_dim * 4 * layers


@pytest.mark.parametrize(("family", "layout"), list(_cases()))
def test_tokens_equal_transformers(family: str, layout: str, make_checkpoint: MakeCheckpoint, zygote: Zygote) -> None:
    path = make_checkpoint(family)
    degrees = Layout.parse(layout)
    with LLM(path, zygote=zygote, device="cpu", dtype="float32", **degrees.asdict()) as llm:
        assert tokens_of(llm) == expected(path)
        # once more, now that every prefix can be found again
        assert tokens_of(llm) == expected(path)
        assert sum(record.prefix_hits for record in llm.engine.records()) > sum(LENGTHS) // 4

    room = scarce(llm.shape, degrees, 2 + (LENGTHS[-1] + NEW_TOKENS) // BLOCK)
    limits = {"max_num_batched_tokens": 24, "kv_cache_bytes": room, "enable_prefix_caching": False}
    with LLM(path, zygote=zygote, device="cpu", dtype="float32", **limits, **degrees.asdict()) as llm:
        assert tokens_of(llm) == expected(path)
        records = llm.engine.records()
        assert sum(record.prefix_hits for record in records) == 0
        if degrees.dp * degrees.ep == 1:
            assert sum(record.preemptions for record in records) > 0


@pytest.mark.parametrize("family", [*DENSE, *MIXTURES])
def test_logprobs_within_tolerance(family: str, make_checkpoint: MakeCheckpoint, zygote: Zygote) -> None:
    path = make_checkpoint(family)
    layout = "ep2tp2" if family in MIXTURES else "tp2pp2"
    asked = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=20)
    prompt = prompts_for(read_shape(path).vocab_size)[5]
    with LLM(path, zygote=zygote, device="cpu", dtype="float32", **Layout.parse(layout).asdict()) as llm:
        output = llm.generate(prompt, asked)[0].outputs[0]
    ids = torch.tensor([prompt + output.token_ids])
    logits = oracle_model(path)[0](ids).logits[0].float()
    logs = logits.log_softmax(-1)
    # 1e-4 for logits of a trained model's size; the checkpoint's, made for wide margins, reach further
    tolerance = 1e-4 * max(1.0, logits.abs().max().item() / 25)
    assert output.logprobs is not None
    for step, given in enumerate(output.logprobs):
        at = logs[len(prompt) - 1 + step]
        assert given.logprob == pytest.approx(at[output.token_ids[step]].item(), abs=tolerance)
        assert given.rank == 1
        for token, value in given.top:
            assert value == pytest.approx(at[token].item(), abs=tolerance)


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("llama", {"num_key_value_heads": 1}),
        ("llama", {"tie_word_embeddings": True}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("mistral", {"sliding_window": None}),
    ],
    ids=["multi-query", "tied", "untied-bias", "no-window"],
)
@pytest.mark.parametrize("layout", ["tp4", "tp2pp2"])
def test_variants_equal_transformers(
    family: str, overrides: dict[str, object], layout: str, make_checkpoint: MakeCheckpoint, zygote: Zygote
) -> None:
    path = make_checkpoint(family, shards=3, **overrides)
    with LLM(path, zygote=zygote, device="cpu", dtype="float32", **Layout.parse(layout).asdict()) as llm:
        assert tokens_of(llm) == expected(path)


@pytest.mark.parametrize("layout", ["ep2pp2", "dp2"])
def test_gloo_gives_the_same_tokens(layout: str, make_checkpoint: MakeCheckpoint, zygote: Zygote) -> None:
    path = make_checkpoint("qwen3_moe")
    with LLM(path, zygote=zygote, device="cpu", dtype="float32", transport="gloo", **Layout.parse(layout).asdict()) as llm:
        assert tokens_of(llm) == expected(path)
