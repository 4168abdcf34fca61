"""`LLM` as a script written for vLLM uses it: arguments, prompts, sampling, and what is told when something fails."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import MakeCheckpoint

from runtime import LLM, SamplingParams
from runtime.checkpoint.config import CheckpointError
from runtime.daemon.launcher import LaunchRefused
from runtime.rank.nursery import Zygote

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = ["def main():", "Hello world", "The quick brown fox", "import os\nimport sys\n"]


@pytest.fixture(scope="module")
def llm(make_checkpoint: MakeCheckpoint, shared_zygote: Zygote) -> Iterator[LLM]:
    with LLM(make_checkpoint("llama"), zygote=shared_zygote, device="cpu", dtype="float32", tensor_parallel_size=2) as made:
        yield made


def tokens_of(llm: LLM, prompts: Any, wish: Any) -> list[list[int]]:
    return [output.token_ids for request in llm.generate(prompts, wish) for output in request.outputs]


def test_arguments_have_vllms_names(make_checkpoint: MakeCheckpoint, shared_zygote: Zygote) -> None:
    options = {
        "trust_remote_code": True,
        "disable_log_stats": True,
        "enforce_eager": True,
        "seed": 3,
    }
    with LLM(
        model=str(make_checkpoint("llama")),
        zygote=shared_zygote,
        device="cpu",
        dtype="float32",
        tensor_parallel_size=2,
        pipeline_parallel_size=2,
        max_model_len=99,
        max_num_seqs=7,
        gpu_memory_utilization=0.5,
        **options,
    ) as made:
        assert str(made.spec.layout) == "tp2pp2"
        assert (made.max_model_len, made.spec.max_num_seqs, made.spec.gpu_memory_utilization) == (99, 7, 0.5)
        assert len(made.generate("Hello", GREEDY)[0].outputs[0].token_ids) == 12


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tensor_paralel_size": 2}, TypeError, ["tensor_paralel_size", "tp"]),
        ({"tensor_parallel_size": 0}, ValueError, ["tp", "greater than or equal to 1"]),
        ({"tensor_parallel_size": 3}, LaunchRefused, ["tp 3", "8 attention heads", "Nearest that work", "dp3"]),
        ({"pipeline_parallel_size": 5}, LaunchRefused, ["pp 5", "4 layers"]),
        ({"expert_parallel_size": 2}, LaunchRefused, ["no experts"]),
        ({"max_model_len": 5000}, LaunchRefused, ["max_model_len 5000", "1024"]),
        ({"dtype": "int8"}, ValueError, ["dtype", "float32"]),
        ({"gpu_memory_utilization": 1.5}, ValueError, ["gpu_memory_utilization", "less than or equal to 1"]),
        ({"transport": "nccl"}, LaunchRefused, ["nccl"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_wrong_arguments_are_refused_before_any_process(
    make_checkpoint: MakeCheckpoint,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    error: type[Exception],
    words: list[str],
) -> None:
    monkeypatch.setattr("runtime.llm.Zygote", lambda: pytest.fail("a process was started"))
    with pytest.raises(error) as caught:
        LLM(make_checkpoint("llama"), device="cpu", **options)
    assert all(word in str(caught.value) for word in words)


def test_a_directory_without_a_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.llm.Zygote", lambda: pytest.fail("a process was started"))
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        LLM(tmp_path, device="cpu")


def test_prompts_come_in_every_form(llm: LLM) -> None:
    ids = llm.tokenizer.encode("Hello world")
    forms = ["Hello world", {"prompt": "Hello world"}, {"prompt_token_ids": ids}, ids]
    outputs = llm.generate(forms, GREEDY)
    assert len({tuple(out.outputs[0].token_ids) for out in outputs}) == 1
    assert [out.prompt_token_ids for out in outputs] == [ids] * 4
    assert [out.prompt for out in outputs] == ["Hello world", "Hello world", None, None]
    assert all(out.finished and out.outputs[0].finish_reason == "length" for out in outputs)
    for single in forms:
        assert tokens_of(llm, single, GREEDY) == [outputs[0].outputs[0].token_ids]
    assert outputs[0].outputs[0].text == llm.tokenizer.decode(outputs[0].outputs[0].token_ids)


@pytest.mark.parametrize(
    ("prompt", "wish", "words"),
    [
        ([], GREEDY, None),
        ([[]], GREEDY, "the prompt is empty"),
        ([[5] * 1024], GREEDY, "has 1024 tokens: it must be shorter than max_model_len, 1024"),
        ([[5, 1000]], GREEDY, "token id 1000 is outside the vocabulary of 1000"),
        ([[-1]], GREEDY, "token id -1"),
        (["a"], SamplingParams(temperature=-1), "temperature is -1"),
        (["a"], SamplingParams(n=0, top_p=2), "n is 0.*top_p is 2"),
        (["a", "b"], [GREEDY], "1 sampling_params for 2 prompts"),
    ],
)
def test_what_cannot_be_generated_is_refused_and_runs_nothing(llm: LLM, prompt: Any, wish: Any, words: str | None) -> None:
    if words is None:
        assert llm.generate(prompt, wish) == []
        return
    with pytest.raises(ValueError, match=words):
        llm.generate(["fine", *prompt] if len(prompt) == 1 and not isinstance(wish, list) else prompt, wish)
    assert not llm.engine.busy
    assert not llm.engine.in_flight


def test_each_prompt_has_its_own_parameters(llm: LLM) -> None:
    wishes = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (1, 5, 3)]
    assert list(map(len, tokens_of(llm, PROMPTS[:3], wishes))) == [1, 5, 3]
    assert [len(request.outputs) for request in llm.generate(PROMPTS[:2], [GREEDY, SamplingParams(n=2)])] == [1, 2]


def test_several_sequences_of_one_prompt(llm: LLM) -> None:
    """The i-th has the seed plus i; also where that leaves 64 bits."""
    (request,) = llm.generate("Hello", SamplingParams(n=3, seed=2**63 - 2, max_tokens=16, ignore_eos=True))
    assert [output.index for output in request.outputs] == [0, 1, 2]
    alone = [SamplingParams(seed=seed, max_tokens=16, ignore_eos=True) for seed in (2**63 - 2, 2**63 - 1, -(2**63))]
    assert [output.token_ids for output in request.outputs] == tokens_of(llm, ["Hello"] * 3, alone)
    assert len({tuple(output.token_ids) for output in request.outputs}) == 3


def test_a_seed_gives_the_same_text_in_any_company(llm: LLM) -> None:
    wish = SamplingParams(seed=11, temperature=2.5, top_p=0.99, max_tokens=24, ignore_eos=True, repetition_penalty=1.1)
    (alone,) = tokens_of(llm, PROMPTS[0], wish)
    others = [SamplingParams(max_tokens=m, top_k=9, min_p=0.01) for m in (3, 30, 24)]
    assert tokens_of(llm, PROMPTS, [wish, *others])[0] == alone
    assert tokens_of(llm, [*PROMPTS[1:], PROMPTS[0]], [*others, wish])[3] == alone
    assert tokens_of(llm, PROMPTS[0], SamplingParams(**{**_fields(wish), "seed": 12})) != [alone]
    free = SamplingParams(max_tokens=24, ignore_eos=True)
    assert tokens_of(llm, PROMPTS[0], free) != tokens_of(llm, PROMPTS[0], free), "without a seed each run is another"


def _fields(wish: SamplingParams) -> dict[str, Any]:
    return {name: getattr(wish, name) for name in wish.__struct_fields__}


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_string_ends_the_text_before_it(llm: LLM, include: bool) -> None:
    wish = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    whole = llm.generate("Hello", wish)[0].outputs[0]
    stop = whole.text[9:12]
    at = whole.text.index(stop)
    asked = SamplingParams(**{**_fields(wish), "stop": stop, "include_stop_str_in_output": include})
    aborted = llm.engine.records()[0].aborted
    cut = llm.generate("Hello", asked)[0].outputs[0]
    assert cut.text == whole.text[: at + len(stop) if include else at]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert len(cut.token_ids) < 40
    assert llm.engine.records()[0].aborted == aborted + 1, "the engine is told to go no further"


def test_a_stop_token_ends_it_too(llm: LLM) -> None:
    (whole,) = tokens_of(llm, "Hello", GREEDY)
    stop = next(token for token in whole[3:] if token not in whole[:3])
    output = llm.generate("Hello", SamplingParams(temperature=0, ignore_eos=True, stop_token_ids=(stop,)))[0].outputs[0]
    assert output.token_ids == whole[: whole.index(stop) + 1]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)


def test_logprobs_of_each_token(llm: LLM) -> None:
    wish = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, logprobs=3)
    output = llm.generate("Hello", wish)[0].outputs[0]
    assert output.logprobs is not None
    assert len(output.logprobs) == 6
    for token, given in zip(output.token_ids, output.logprobs, strict=True):
        assert given.top[0] == (token, given.logprob)
        assert given.rank == 1
        values = [value for _, value in given.top]
        assert values == sorted(values, reverse=True)
        assert len(values) == 3
        assert max(values) < 0
    assert output.cumulative_logprob == pytest.approx(sum(given.logprob for given in output.logprobs))
    assert llm.generate("Hello", GREEDY)[0].outputs[0].logprobs is None


def test_an_interrupt_at_any_moment_leaves_it_usable(llm: LLM) -> None:
    """Ctrl-C while steps are planned, out, or being answered: the next call gives the tokens that it would have given."""
    long = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)
    before = tokens_of(llm, PROMPTS, GREEDY)
    for turn in range(12):
        timer = threading.Timer(0.01 + 0.013 * turn, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            llm.generate(PROMPTS * 2, long)
        timer.join()
        assert tokens_of(llm, PROMPTS, GREEDY) == before
