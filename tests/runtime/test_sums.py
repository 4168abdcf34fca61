"""What is counted adds up, under every layout: tokens are those that clients got, bytes follow formulas, phases fill steps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from checkpoints import MakeCheckpoint
from recorded import Recorded, record

from runtime.layout import Layout, stage_layers
from runtime.llm import LLM
from runtime.rank.nursery import Zygote
from runtime.sampling import SamplingParams
from telemetry.records import CollectiveRecord, ExpertRecord, RankMemory, StepRecord

ITEM = 4  # float32
NEW = 9
PROMPTS = [[10 + i, 20, 30 + i] * (1 + 2 * i) for i in range(7)]
LIMITS = {"dtype": "float32", "enable_prefix_caching": False, "max_num_batched_tokens": 24, "max_num_seqs": 4}

LAYOUTS = ["tp1", "tp2", "tp4", "pp2", "pp3", "tp2pp2", "dp2", "ep2", "ep4", "ep2tp2", "ep2pp2", "ep2dp2", "dp2tp2pp2"]


class Sums:
    """What every rank counted in all. `members`: the tokens of a replica's member (dp, ep); `wanted`: those that it sampled."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self.shape, self.layout = recorded.llm.shape, recorded.llm.spec.layout
        self.steps = recorded.steps
        self.totals: dict[int, Counter[tuple[str, str, str]]] = {rank: Counter() for rank in self.steps}
        for told in recorded.all(CollectiveRecord):
            for what in ("calls", "bytes", "wait_ns", "transfer_ns"):
                self.totals[told.rank][told.axis, told.op, what] += getattr(told, what)

    def tokens(self, rank: int) -> int:
        return sum(step.prefill_tokens + step.decode_tokens for step in self.steps[rank])

    def experts_layers(self, rank: int) -> int:
        layers = stage_layers(self.shape, self.layout.pp)[self.layout.coordinates(rank).pp]
        return sum(self.shape.is_moe_layer(layer) for layer in layers)


@pytest.mark.parametrize(("name", "transport"), [*((name, "shm") for name in LAYOUTS), ("ep2tp2", "gloo"), ("tp2pp2", "gloo")])
def test_what_is_counted_adds_up(
    name: str, transport: str, shared_zygote: Zygote, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    layout = Layout.parse(name)
    path = make_checkpoint("mixtral" if layout.ep > 1 else "llama")
    delivered = 0

    def drive(llm: LLM) -> None:
        nonlocal delivered
        wish = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
        delivered = sum(len(out.outputs[0].token_ids) for out in llm.generate(PROMPTS, wish))

    options = {"transport": transport, **layout.asdict(), **LIMITS}
    sums = Sums(record(tmp_path, path, drive, zygote=shared_zygote, **options))
    check_tokens(sums, delivered)
    check_times(sums)
    check_all_reduces(sums)
    check_all_to_alls(sums)
    check_stages(sums)
    check_kinds_are_the_steps(sums)
    check_memory(sums)
    check_work(sums)


def check_tokens(sums: Sums, delivered: int) -> None:
    """The engine's, the steps' and the clients' are the same; what is sampled is gathered from all tp ranks."""
    assert delivered == NEW * len(PROMPTS)
    assert sum(engine.generated_tokens for engine in sums.recorded.llm.engine.records()) == delivered
    assert sum(engine.prompt_tokens for engine in sums.recorded.llm.engine.records()) == sum(map(len, PROMPTS))
    layout = sums.layout
    for pp in range(layout.pp):
        for tp in range(layout.tp):
            here = [rank for rank in sums.steps if layout.coordinates(rank)[1::2] == (pp, tp)]
            steps = [step for rank in here for step in sums.steps[rank]]
            assert sum(step.prefill_tokens for step in steps) == sum(map(len, PROMPTS))
            assert sum(step.decode_tokens for step in steps) == delivered - len(PROMPTS), "the first comes of the prompt"
            if layout.tp > 1 and pp == layout.pp - 1:
                # of each token two doubles from every rank: its best logit and where
                gathered = sum(sums.totals[rank]["tp", "all_gather", "bytes"] for rank in here)
                assert gathered == delivered * layout.tp * 2 * 8


def check_times(sums: Sums) -> None:
    for steps in sums.steps.values():
        for step in steps:
            check_phases(step, sums.layout)
        whole = steps[-1].start_ns + steps[-1].wall_ns - (steps[0].start_ns - steps[0].idle_ns)
        assert sum(step.wall_ns + step.idle_ns for step in steps) == pytest.approx(whole, rel=0.02)


def check_phases(step: StepRecord, layout: Layout) -> None:
    """In order, without overlap, and with the gaps between them as long as the step."""
    end = 0
    for phase in step.phases:
        assert phase.offset_ns >= end
        end = phase.offset_ns + phase.duration_ns
    assert end <= step.wall_ns
    assert sum(phase.duration_ns for phase in step.phases) + step.gap_ns == pytest.approx(step.wall_ns, rel=0.02)
    axes = sum(axis.wait_ns + axis.transfer_ns for axis in step.axes.values())
    assert step.gap_ns + step.recv_wait_ns + step.compute_ns + axes == pytest.approx(step.wall_ns, rel=0.02)
    stage = layout.coordinates(step.rank).pp
    assert [phase.name for phase in step.phases if phase.name != "sample"] == [
        *(["recv"] if stage else []),
        "forward",
        *(["send"] if stage < layout.pp - 1 else []),
    ]


def check_all_reduces(sums: Sums) -> None:
    """Two a layer of tokens x hidden x dtype; one more of the embedding, whose rows are divided over the ranks."""
    for rank in sums.steps:
        stage = sums.layout.coordinates(rank).pp
        layers = len(stage_layers(sums.shape, sums.layout.pp)[stage])
        expected = (2 * layers + (stage == 0)) * sums.tokens(rank) * sums.shape.hidden_size * ITEM
        assert sums.totals[rank]["tp", "all_reduce", "bytes"] == (expected if sums.layout.tp > 1 else 0)


def check_all_to_alls(sums: Sums) -> None:
    """Every token goes to its k experts and comes back, in each layer of experts; experts count it once."""
    layout, shape = sums.layout, sums.shape
    if layout.ep == 1:
        return
    told = sums.recorded.all(ExpertRecord)
    for rank, steps in sums.steps.items():
        if layout.coordinates(rank).ep:
            continue
        group = layout.group(rank, "ep")
        layers, tokens = sums.experts_layers(rank), sum(sums.tokens(member) for member in group)
        sent = sum(sums.totals[member]["ep", "all_to_all", "bytes"] for member in group)
        assert sent == 2 * layers * tokens * shape.experts_per_token * shape.hidden_size * ITEM
        assert {sums.totals[member]["ep", "all_to_all", "calls"] for member in group} == {2 * layers * len(steps)}
        counted = Counter[int]()
        for experts in told:
            if experts.rank in group:
                for layer, row in zip(experts.layers, experts.tokens, strict=True):
                    counted[layer] += sum(row)
        assert set(counted.values()) == {tokens * shape.experts_per_token}
        assert len(counted) == layers


def check_stages(sums: Sums) -> None:
    """Each stage sends its hidden states to the next, tokens x hidden x dtype; what is sent is received."""
    for rank, steps in sums.steps.items():
        stage, sent = sums.layout.coordinates(rank).pp, sums.tokens(rank) * sums.shape.hidden_size * ITEM
        for op, does in (("send", stage < sums.layout.pp - 1), ("recv", stage > 0)):
            assert sums.totals[rank]["pp", op, "bytes"] == (sent if does else 0)
            assert sums.totals[rank]["pp", op, "calls"] == (len(steps) if does else 0)


def check_kinds_are_the_steps(sums: Sums) -> None:
    """Calls by kind and calls by step are the same calls."""
    for rank, steps in sums.steps.items():
        for axis in ("tp", "ep", "pp"):
            mine = [step.axes[axis] for step in steps if axis in step.axes]
            by_kind = Counter[str]()
            for (its_axis, _, what), amount in sums.totals[rank].items():
                by_kind[what] += amount if its_axis == axis else 0
            received = sum(step.recv_wait_ns for step in steps) if axis == "pp" else 0
            assert by_kind["calls"] == sum(each.calls for each in mine)
            assert by_kind["wait_ns"] == sum(each.wait_ns for each in mine) + received
            assert by_kind["transfer_ns"] == sum(each.transfer_ns for each in mine)
    for told in sums.recorded.all(CollectiveRecord):
        assert sum(told.waits.values()) == sum(told.durations.values()) == told.calls
        if told.op != "all_to_all":
            assert told.calls * ((1 << told.size_class) // 2) <= told.bytes <= told.calls << told.size_class
        if sums.recorded.llm.spec.transport == "gloo" and told.op != "recv":
            assert told.wait_ns == 0, "it is not known, and counts as transfer"
        assert told.members == getattr(sums.layout, told.axis)


def check_memory(sums: Sums) -> None:
    """Every rank tells once at least; its parts add up."""
    told = sums.recorded.all(RankMemory)
    assert {memory.rank for memory in told} == set(sums.steps)
    for memory in told:
        assert None not in (memory.activations, memory.workspace, memory.other, memory.used, memory.peak)
        parts = (memory.weights, memory.kv, memory.activations, memory.workspace, memory.other)
        assert sum(parts) == memory.used <= memory.peak
        assert memory.used < memory.total
        assert memory.weights > 100_000
        assert memory.kv > 0


def check_work(sums: Sums) -> None:
    """However a model is divided, its parts need the FLOPs of the whole. With fewer kv heads than ranks, several keep one."""
    shape, layout = sums.shape, sums.layout
    lengths = [len(prompt) + NEW - 1 for prompt in PROMPTS]  # the last token is never put in
    kept = max(shape.num_kv_heads, layout.tp)
    channels = shape.num_heads * shape.head_dim
    parameters = [2 * (channels + kept * shape.head_dim) * shape.hidden_size] * shape.num_layers
    for layer in range(shape.num_layers):
        if shape.is_moe_layer(layer):
            active = 3 * shape.experts_per_token * shape.expert_intermediate_size
            parameters[layer] += shape.hidden_size * (shape.num_experts * layout.tp + active)  # every rank has the router
        else:
            parameters[layer] += 3 * shape.hidden_size * shape.intermediate_size
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    head = shape.vocab_size * shape.hidden_size * NEW * len(PROMPTS)
    expected = 2 * (sum(parameters) * sum(lengths) + head) + 4 * channels * pairs * shape.num_layers
    steps = [step for steps in sums.steps.values() for step in steps]
    assert sum(step.flops for step in steps) == expected
    weights = {told.rank: told.weights for told in sums.recorded.all(RankMemory)}
    for step in steps:
        place = 2 * shape.head_dim * (kept // layout.tp) * ITEM  # of one token in one layer
        layers = len(stage_layers(shape, layout.pp)[layout.coordinates(step.rank).pp])
        assert step.kv_bytes >= 2 * place * layers * (step.prefill_tokens + step.decode_tokens), (
            "each is written, and sees itself"
        )
        assert step.weight_bytes < weights[step.rank]


def test_drawn_tokens_need_every_logit(shared_zygote: Zygote, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """A token that is drawn, and not the best, is drawn from all of the vocabulary: it is gathered, as float32."""
    wish = SamplingParams(temperature=1.0, seed=1, max_tokens=NEW, ignore_eos=True)
    path = make_checkpoint("llama3")
    sums = Sums(record(tmp_path, path, lambda llm: llm.generate(PROMPTS, wish), zygote=shared_zygote, tp=2, **LIMITS))
    padded = 2 * -(-sums.shape.vocab_size // 2)
    for rank in (0, 1):
        assert sums.totals[rank]["tp", "all_gather", "bytes"] == NEW * len(PROMPTS) * padded * 4
