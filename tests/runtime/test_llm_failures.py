"""`LLM` when its ranks fail, its caller gives up, or its memory is scarce."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from checkpoints import MakeCheckpoint
from collective_worlds import until

from runtime import LLM, SamplingParams
from runtime.llm import RanksFailed
from runtime.rank.faults import Fault
from runtime.rank.nursery import Zygote

LONG = SamplingParams(temperature=0, max_tokens=900, ignore_eos=True)
SHORT = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
Make = Callable[..., LLM]


@pytest.fixture
def make(make_checkpoint: MakeCheckpoint, shared_zygote: Zygote) -> Iterator[Make]:
    made: list[LLM] = []

    def start(**options: Any) -> LLM:
        options = {"zygote": shared_zygote, "device": "cpu", "dtype": "float32", **options}
        made.append(LLM(make_checkpoint("llama"), **options))
        return made[-1]

    yield start
    for llm in made:
        llm.close()


def board(llm: LLM) -> list[Any]:
    assert llm._group is not None
    return llm._group.board.ranks


def when_busy(llm: LLM, action: Callable[[], None]) -> threading.Thread:
    """Do it once every rank has made some steps of a request."""

    def wait() -> None:
        until(lambda: all(status.steps > 3 for status in board(llm)), "the ranks never began")
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("layout", [{"tp": 2}, {"pp": 2}, {"dp": 2}], ids=str)
def test_a_killed_rank_is_named_at_once_and_nothing_is_left(make: Make, layout: dict[str, int]) -> None:
    before = set(os.listdir("/dev/shm"))
    llm = make(**layout)
    directory = Path(llm._directory.name)
    pids = [status.pid for status in board(llm)]
    killed = []

    def kill() -> None:
        os.kill(pids[1], signal.SIGKILL)
        killed.append(time.monotonic())

    thread = when_busy(llm, kill)
    with pytest.raises(RanksFailed, match=r"rank 1 \(.*SIGKILL"):
        llm.generate([[1, 2, 3]] * 4, LONG)
    assert time.monotonic() - killed[0] < 2
    thread.join()
    assert not llm.engine.busy
    with pytest.raises(RanksFailed, match="rank 1"):
        llm.generate([[1, 2, 3]], SHORT)
    llm.close()
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)
    assert set(os.listdir("/dev/shm")) <= before
    assert not directory.exists()
    llm.close()  # twice does no harm
    with pytest.raises(RuntimeError, match="closed"):
        llm.generate([[1, 2, 3]], SHORT)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_in_a_rank_is_the_cause_that_is_told(make: Make, rank: int) -> None:
    llm = make(tp=2)

    def fail() -> None:
        board(llm)[rank].fault = Fault.RAISE

    thread = when_busy(llm, fail)
    with pytest.raises(RanksFailed, match=rf"rank {rank} .*InjectedFault: this exception was asked for"):
        llm.generate([[1, 2, 3]], LONG)
    thread.join()
    assert llm._group is not None
    assert llm._group.failure is not None
    assert "Traceback" in llm._group.failure.last_words
    assert 'raise InjectedFault("this exception was asked for")' in llm._group.failure.last_words


def test_a_frozen_rank_is_noticed(make: Make) -> None:
    llm = make(tp=2, stall_timeout_s=0.5)

    def freeze() -> None:
        board(llm)[1].fault = Fault.FREEZE

    thread = when_busy(llm, freeze)
    with pytest.raises(RanksFailed, match=r"rank 1 .*no progress for 0.5 s \(somebody stopped it"):
        llm.generate([[1, 2, 3]], LONG)
    thread.join()


def test_a_caller_who_gives_up_can_call_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that were in flight then are answered later, and disturb nobody."""
    llm = make(pp=2)
    expected = [out.outputs[0].token_ids for out in llm.generate([[1, 2, 3], [4, 5]], SHORT)]
    apply, calls = llm.engine.apply, []

    def interrupted(result: Any) -> Any:
        outputs = apply(result)
        calls.append(result)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return outputs

    monkeypatch.setattr(llm.engine, "apply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.generate([[7, 8, 9]] * 4, LONG)
    assert not llm.engine.busy
    assert [out.outputs[0].token_ids for out in llm.generate([[1, 2, 3], [4, 5]], SHORT)] == expected


def test_the_longest_sequence_fits_the_cache_it_was_promised(make: Make) -> None:
    """The last position is served, alone and in a crowd, with a cache that holds one such sequence and no second."""
    size = 2 * 4 * 16 * 4 * 4  # of a token: keys and values, 4 heads of 16, 4 bytes, 4 layers
    llm = make(kv_cache_bytes=5 * 16 * size, block_size=16)
    assert llm.max_model_len == 64, "four blocks, for the fifth is nobody's"
    prompts = [[9 + i] * 63 for i in range(3)] + [[50 + i] * 5 for i in range(3)]
    outputs = llm.generate(prompts, LONG)
    assert [len(out.outputs[0].token_ids) for out in outputs] == [1] * 3 + [59] * 3
    assert {out.outputs[0].finish_reason for out in outputs} == {"length"}
    (record,) = llm.engine.records()
    assert record.kv_total == 4
    assert record.kv_used == 0


def test_no_number_that_a_client_may_send_kills_a_rank(make: Make) -> None:
    llm = make(tp=2)
    odd = [
        SamplingParams(temperature=1e-60, max_tokens=2),
        SamplingParams(top_p=1e-60, max_tokens=2),
        SamplingParams(min_tokens=2, max_tokens=2, stop_token_ids=(1 << 30, -1, 1000)),
        SamplingParams(no_repeat_ngram_size=64, repetition_penalty=1e-300, max_tokens=2),
        SamplingParams(repetition_penalty=100, temperature=100, max_tokens=2),
        SamplingParams(seed=-(2**63), n=2, max_tokens=2, logprobs=20),
        SamplingParams(top_k=2**62, min_p=1e-300, max_tokens=2),
        SamplingParams(n=2, seed=2**63 - 1, max_tokens=2),
    ]
    expected = llm.generate([[1, 2, 3]], SHORT)[0].outputs[0].token_ids
    for wish in odd:
        assert wish.problems() == []
    outputs = llm.generate([[5, 6, 7]] * len(odd) + [[1, 2, 3]], [*odd, SHORT])
    assert all(1 <= len(output.token_ids) <= 2 for out in outputs[:-1] for output in out.outputs)
    assert outputs[-1].outputs[0].token_ids == expected
