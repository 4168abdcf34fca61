"""On a GPU: the same tokens in float32, the same distribution within bfloat16's resolution, graphs equal to eager steps."""

from __future__ import annotations

import random

import pytest
import torch
from checkpoints import MakeCheckpoint, oracle_greedy, oracle_model

from runtime.checkpoint.config import read_shape
from runtime.llm import LLM
from runtime.sampling import SamplingParams

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

FAMILIES = ("llama3", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe")
GREEDY = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)


def prompts(vocab_size: int) -> list[list[int]]:
    numbers = random.Random(0)
    return [[numbers.randrange(10, vocab_size) for _ in range(length)] for length in (1, 5, 16, 17, 33, 64, 100, 200)]


@pytest.mark.parametrize("eager", [True, False], ids=["eager", "graphs"])
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_tokens_equal_transformers(family: str, eager: bool, make_checkpoint: MakeCheckpoint) -> None:
    path = make_checkpoint(family)
    asked = prompts(read_shape(path).vocab_size)
    with LLM(path, device="cuda", dtype="float32", enforce_eager=eager, gpu_memory_utilization=0.3) as llm:
        got = [out.outputs[0].token_ids for out in llm.generate(asked, GREEDY)]
    assert got == [oracle_greedy(path, prompt, 64).tokens for prompt in asked]


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_logprobs_are_close(family: str, make_checkpoint: MakeCheckpoint) -> None:
    path = make_checkpoint(family)
    prompt = prompts(read_shape(path).vocab_size)[5]
    with LLM(path, device="cuda", dtype="bfloat16", gpu_memory_utilization=0.3) as llm:
        output = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=1, logprobs=5))[0].outputs[0]
    logits = oracle_model(path)[0](torch.tensor([prompt])).logits[0, -1].float()
    assert output.logprobs is not None
    for token, value in output.logprobs[0].top:
        # bfloat16 keeps 8 bits; errors of a few layers add up to some of its last ones
        assert value == pytest.approx(logits.log_softmax(-1)[token].item(), abs=0.05 * logits.abs().max().item())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("degrees", [{"tp": 2}, {"pp": 2}, {"dp": 2}])
def test_two_gpus_give_the_same_tokens(degrees: dict[str, int], make_checkpoint: MakeCheckpoint) -> None:
    path = make_checkpoint("llama3")
    asked = prompts(read_shape(path).vocab_size)
    with LLM(path, device="cuda", dtype="float32", gpu_memory_utilization=0.3, **degrees) as llm:
        got = [out.outputs[0].token_ids for out in llm.generate(asked, GREEDY)]
    assert got == [oracle_greedy(path, prompt, 64).tokens for prompt in asked]
