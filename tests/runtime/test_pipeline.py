"""What ranks record of their steps: stages overlap in time, times add up, collectives are counted as the model makes them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from checkpoints import MakeCheckpoint
from collective_worlds import until

from runtime.layout import stage_layers
from runtime.llm import LLM
from runtime.rank.nursery import Zygote
from runtime.sampling import SamplingParams
from telemetry.codec import decode_envelope
from telemetry.records import StepRecord

ITEM = 4  # float32
Traced = Callable[..., tuple[LLM, dict[int, list[StepRecord]]]]


@pytest.fixture
def traced(shared_zygote: Zygote, tmp_path: Path) -> Traced:
    """`traced(checkpoint, requests=8, tokens=16, pp=2, ...)`: generate, then all that the ranks recorded, by rank."""

    def run(path: Path, requests: int, tokens: int, **options: Any) -> tuple[LLM, dict[int, list[StepRecord]]]:
        with _hub(tmp_path) as (endpoint, hub), LLM(path, zygote=shared_zygote, device="cpu", hub=endpoint, **options) as llm:
            prompts = [[10 + i, 20, 30 + i] * (2 + i) for i in range(requests)]
            llm.generate(prompts, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))
            steps: dict[int, list[StepRecord]] = {rank: [] for rank in range(llm.spec.layout.world_size)}

            def complete() -> bool:
                while hub.poll(0):
                    envelope = decode_envelope(hub.recv())
                    assert envelope.lost == 0
                    for record in envelope.records:
                        assert isinstance(record, StepRecord)
                        steps[record.rank].append(record)
                return all(len(each) == llm.engine.records()[0].steps for each in steps.values())

            until(complete, "not every step was recorded")
            return llm, steps

    return run


@contextmanager
def _hub(directory: Path) -> Iterator[tuple[str, Any]]:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        endpoint = f"ipc://{directory}/hub"
        socket.bind(endpoint)
        yield endpoint, socket


def overlapping(first: list[StepRecord], second: list[StepRecord]) -> float:
    """The share of the second stage's steps during whose computing the first computes for another slot.

    Where in a step the host's gap lies is not recorded: it is taken to come first on the first stage and last on the second,
    which can only make the overlap smaller.
    """
    busy = [(r.start_ns + r.gap_ns, r.start_ns + r.gap_ns + r.compute_ns, r.step) for r in first]
    count = 0
    for record in second:
        start = record.start_ns + record.recv_wait_ns
        end = start + record.compute_ns
        shared = sum(max(0, min(end, b) - max(start, a)) for a, b, step in busy if step != record.step)
        count += shared > 0.02 * (end - start)
    return count / len(second)


def test_stages_work_at_the_same_time(traced: Traced, make_checkpoint: MakeCheckpoint) -> None:
    path = make_checkpoint("llama", num_hidden_layers=8)
    limits = {"pp": 2, "dtype": "float32", "threads": 1}
    _, steps = traced(path, 8, 40, **limits)
    assert len(steps[0]) == len(steps[1]) > 60
    assert [r.step for r in steps[0]] == [r.step for r in steps[1]] == sorted(r.step for r in steps[0])
    assert {r.slot for r in steps[0]} == {0, 1}
    assert overlapping(steps[0], steps[1]) > 1 / 3
    # and it is the micro-batches in flight that do it
    _, alone = traced(path, 8, 40, micro_batches=1, **limits)
    assert {r.slot for r in alone[0]} == {0}
    assert overlapping(alone[0], alone[1]) < 1 / 10


def test_decodes_are_split_equally_over_the_micro_batches(traced: Traced, make_checkpoint: MakeCheckpoint) -> None:
    _, steps = traced(make_checkpoint("llama"), 8, 24, pp=2, dtype="float32")
    # not to the end: the older sequences may be a few tokens ahead when the engine finds several answers at once
    steady = [r for r in steps[1] if not r.prefill_tokens][2:22]
    assert {r.decode_tokens for r in steady} == {4}


def test_times_add_up(traced: Traced, make_checkpoint: MakeCheckpoint) -> None:
    _, steps = traced(make_checkpoint("llama"), 8, 24, pp=2, tp=2, dtype="float32")
    for rank, records in steps.items():
        for r in records:
            axes = sum(axis.wait_ns + axis.transfer_ns for axis in r.axes.values())
            assert r.gap_ns + r.recv_wait_ns + r.compute_ns + axes == pytest.approx(r.wall_ns, rel=0.02)
            assert (r.recv_wait_ns > 0) == (rank >= 2), "the first stage waits for no other, the second always a little"
            assert r.compute_ns > 0
        # no time between two steps is forgotten, and none counted twice
        ends = [r.start_ns + r.wall_ns for r in records]
        starts = [r.start_ns - r.idle_ns for r in records]
        assert statistics.median(abs(start - end) for start, end in zip(starts[1:], ends[:-1], strict=True)) < 1e6
        assert all(start >= end for start, end in zip(starts[1:], ends[:-1], strict=True))
        assert all(r.start_ns == end for r, end in zip(records[1:], ends[:-1], strict=True) if not r.idle_ns)


def test_collectives_are_those_of_the_model(traced: Traced, make_checkpoint: MakeCheckpoint) -> None:
    """Two all-reduces a layer, one of the embedding, one gathering of the winners; one message from stage to stage."""
    llm, steps = traced(make_checkpoint("llama"), 6, 12, pp=2, tp=2, dtype="float32", max_num_batched_tokens=20)
    layers = [len(stage) for stage in stage_layers(llm.shape, 2)]
    decodes = 0
    for rank, records in steps.items():
        first = rank < 2
        for r in records:
            tokens = r.prefill_tokens + r.decode_tokens
            hidden = tokens * llm.shape.hidden_size * ITEM
            tp, pp = r.axes["tp"], r.axes["pp"]
            assert (pp.calls, pp.bytes) == ((1, hidden) if first else (1, 0))
            if first:
                assert (tp.calls, tp.bytes) == (2 * layers[0] + 1, (2 * layers[0] + 1) * hidden)
            elif r.prefill_tokens:
                assert tp.calls in (2 * layers[1], 2 * layers[1] + 1), "no winners without a last chunk"
            else:
                decodes += 1
                winners = 2 * 2 * 8 * r.sequences  # two ranks', a value and a place
                assert (tp.calls, tp.bytes) == (2 * layers[1] + 1, 2 * layers[1] * hidden + winners)
            assert set(r.axes) == {"tp", "pp"}
    assert decodes > 10
    total = sum(r.prefill_tokens for r in steps[0])
    assert total == sum(3 * (2 + i) for i in range(6)), "every prompt token once"
    assert sum(r.decode_tokens for r in steps[0]) == 6 * 11


def test_members_step_together_and_experts_get_every_token(traced: Traced, make_checkpoint: MakeCheckpoint) -> None:
    llm, steps = traced(make_checkpoint("mixtral"), 1, 8, ep=2, dtype="float32")
    layers, k = llm.shape.num_layers, llm.shape.experts_per_token
    assert [r.step for r in steps[0]] == [r.step for r in steps[1]]
    for a, b in zip(steps[0], steps[1], strict=True):
        tokens = sum(r.prefill_tokens + r.decode_tokens for r in (a, b))
        assert sum(a.expert_tokens or []) + sum(b.expert_tokens or []) == tokens * k * layers
        assert a.axes["ep"].calls == b.axes["ep"].calls == 2 * layers
        assert sorted((a.sequences, b.sequences)) == [0, 1], "one member serves the only request, the other its experts"


def test_experts_of_one_member_may_be_asked_by_all(shared_zygote: Zygote, make_checkpoint: MakeCheckpoint) -> None:
    """Full chunks of one token repeated on both members: all their rows go to few experts, and come back."""
    limits = {"ep": 2, "max_num_seqs": 2, "max_num_batched_tokens": 200, "enable_prefix_caching": False}
    wish = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
    with LLM(make_checkpoint("mixtral"), zygote=shared_zygote, device="cpu", dtype="float32", **limits) as llm:
        outputs = llm.generate([[token] * 200 for token in range(10, 90, 10)], wish)
    assert all(len(out.outputs[0].token_ids) == 2 for out in outputs)
