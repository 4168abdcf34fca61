"""What ranks record of their steps: stages overlap in time, times add up, collectives are counted as the model makes them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import MakeCheckpoint
from recorded import Recorded, record

from runtime.layout import stage_layers
from runtime.llm import LLM
from runtime.rank.nursery import Zygote
from runtime.sampling import SamplingParams
from telemetry.records import ExpertRecord, StepRecord

ITEM = 4  # float32
Traced = Callable[..., Recorded]


@pytest.fixture
def traced(shared_zygote: Zygote, tmp_path: Path) -> Traced:
    """`traced(checkpoint, requests=8, tokens=16, pp=2, ...)`: generate, then all that the ranks recorded."""

    def run(path: Path, requests: int, tokens: int, **options: Any) -> Recorded:
        prompts = [[10 + i, 20, 30 + i] * (2 + i) for i in range(requests)]
        wish = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        return record(tmp_path, path, lambda llm: llm.generate(prompts, wish), zygote=shared_zygote, **options)

    return run


def overlapping(first: list[StepRecord], second: list[StepRecord]) -> float:
    """The share of the second stage's steps during whose forward the first is in the forward of another slot."""
    busy = [(*forward(r), r.step) for r in first]
    count = 0
    for step in second:
        start, end = forward(step)
        shared = sum(max(0, min(end, b) - max(start, a)) for a, b, other in busy if other != step.step)
        count += shared > 0.02 * (end - start)
    return count / len(second)


def forward(record: StepRecord) -> tuple[int, int]:
    """When it began and ended."""
    phase = next(phase for phase in record.phases if phase.name == "forward")
    return record.start_ns + phase.offset_ns, record.start_ns + phase.offset_ns + phase.duration_ns


def test_stages_work_at_the_same_time(traced: Traced, make_checkpoint: MakeCheckpoint) -> None:
    path = make_checkpoint("llama", num_hidden_layers=8)
    limits = {"pp": 2, "dtype": "float32", "threads": 1}
    steps = traced(path, 8, 40, **limits).steps
    assert len(steps[0]) == len(steps[1]) > 60
    assert [r.step for r in steps[0]] == [r.step for r in steps[1]] == sorted(r.step for r in steps[0])
    assert {r.slot for r in steps[0]} == {0, 1}
    assert overlapping(steps[0], steps[1]) > 1 / 3
    # and it is the micro-batches in flight that do it
    alone = traced(path, 8, 40, micro_batches=1, **limits).steps
    assert {r.slot for r in alone[0]} == {0}
    assert overlapping(alone[0], alone[1]) < 1 / 10


def test_decodes_are_split_equally_over_the_micro_batches(traced: Traced, make_checkpoint: MakeCheckpoint) -> None:
    steps = traced(make_checkpoint("llama"), 8, 24, pp=2, dtype="float32").steps
    # not to the end: the older sequences may be a few tokens ahead when the engine finds several answers at once
    steady = [r for r in steps[1] if not r.prefill_tokens][2:22]
    assert {r.decode_tokens for r in steady} == {4}


def test_times_add_up(traced: Traced, make_checkpoint: MakeCheckpoint) -> None:
    steps = traced(make_checkpoint("llama"), 8, 24, pp=2, tp=2, dtype="float32").steps
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
    traces = traced(make_checkpoint("llama"), 6, 12, pp=2, tp=2, dtype="float32", max_num_batched_tokens=20)
    steps, shape = traces.steps, traces.llm.shape
    layers = [len(stage) for stage in stage_layers(shape, 2)]
    decodes = 0
    for rank, records in steps.items():
        first = rank < 2
        for r in records:
            tokens = r.prefill_tokens + r.decode_tokens
            hidden = tokens * shape.hidden_size * ITEM
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
    traces = traced(make_checkpoint("mixtral"), 1, 8, ep=2, dtype="float32")
    steps, shape = traces.steps, traces.llm.shape
    total = 0
    assert [r.step for r in steps[0]] == [r.step for r in steps[1]]
    for a, b in zip(steps[0], steps[1], strict=True):
        total += sum(r.prefill_tokens + r.decode_tokens for r in (a, b))
        assert a.axes["ep"].calls == b.axes["ep"].calls == 2 * shape.num_layers
        assert sorted((a.sequences, b.sequences)) == [0, 1], "one member serves the only request, the other its experts"
    told = traces.all(ExpertRecord)
    assert {(r.rank, *r.experts) for r in told} == {(0, 0, 1, 2, 3), (1, 4, 5, 6, 7)}
    assert all(r.layers == list(range(shape.num_layers)) for r in told)
    for layer in range(shape.num_layers):
        assert sum(sum(r.tokens[layer]) for r in told) == total * shape.experts_per_token


def test_experts_of_one_member_may_be_asked_by_all(shared_zygote: Zygote, make_checkpoint: MakeCheckpoint) -> None:
    """Full chunks of one token repeated on both members: all their rows go to few experts, and come back."""
    limits = {"ep": 2, "max_num_seqs": 2, "max_num_batched_tokens": 200, "enable_prefix_caching": False}
    wish = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
    with LLM(make_checkpoint("mixtral"), zygote=shared_zygote, device="cpu", dtype="float32", **limits) as llm:
        outputs = llm.generate([[token] * 200 for token in range(10, 90, 10)], wish)
    assert all(len(out.outputs[0].token_ids) == 2 for out in outputs)
