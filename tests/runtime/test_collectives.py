"""Collectives between real processes: right, in every order of arrival, measured, and telling where a rank is stuck."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import collective_scenarios as scenarios
import pytest
import torch
from collective_worlds import OPS, SLOT, World, many, until
from hypothesis import given
from hypothesis import strategies as st

from runtime.checkpoint.config import parse_shape
from runtime.checkpoint.synthetic import synthetic_config
from runtime.layout import AXES, Layout
from runtime.parallel.communicator import Communicator
from runtime.parallel.segment import PAGE, map_segment, plan_segment
from runtime.rank.board import Board, Op

DTYPES = (torch.float32, torch.bfloat16)


def axis_name(status: object) -> str:
    return AXES[status.op_axis]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("size", "calls"), [(2, 3000), (3, 1500), (4, 1000)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_thousands_of_calls_back_to_back_are_right(size: int, calls: int, dtype: torch.dtype) -> None:
    with World(size, "tp", many, calls, dtype, spin=size == 2) as world:
        results = world.results()
    assert len({shared for _, shared, _ in results}) == 1, "what all share differs between ranks"


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_rank_gets_the_same_bits(size: int) -> None:
    """Of sums that depend on the order of adding."""
    with World(size, "ep", many, 150, torch.bfloat16, False) as world:
        assert len({shared for _, shared, _ in world.results()}) == 1
    with World(size, "ep", scenarios.floats, 5) as world:
        results = world.results()
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gloo_gives_the_same(dtype: torch.dtype, tmp_path: Path) -> None:
    with World(3, "tp", many, 100, dtype, store=str(tmp_path / "store")) as there, World(3, "tp", many, 100, dtype) as here:
        assert there.results() == here.results()


@pytest.mark.parametrize("op", OPS)
def test_the_early_wait_and_the_late_does_not(op: str) -> None:
    with World(3, "tp", scenarios.one_is_late, op, 1) as world:
        results = world.results()
    late_came, late_left, late = results[1]
    assert late.wait_ns < 0.1 * scenarios.HOLD_S * 1e9
    for came, left, taken in (results[0], results[2]):
        assert taken.wait_ns >= 0.9 * (late_came - came)  # no more is certain: either may lose its core at the flag
        assert taken.transfer_ns <= left - came - taken.wait_ns
    assert late.wait_ns + late.transfer_ns <= late_left - late_came
    assert [taken.calls for _, _, taken in results] == [1, 1, 1]


@pytest.mark.parametrize(("op", "number"), [("all_reduce", Op.ALL_REDUCE), ("all_to_all", Op.ALL_TO_ALL)])
def test_the_board_tells_where_the_survivors_of_a_death_are_stuck(op: str, number: Op) -> None:
    with World(3, "ep", scenarios.die_before, 2, op) as world:
        survivors = world.board.ranks[:2]
        until(lambda: all(status.op_seq == 4 for status in survivors), "they never came")
        world.processes[2].join(10)
        assert world.processes[2].exitcode == -signal.SIGKILL
        for status in survivors:
            assert (Op(status.op), axis_name(status), status.op_seq, status.op_done) == (number, "ep", 4, 0)
        victim = world.board.ranks[2]
        assert (Op(victim.op), victim.op_seq, victim.op_done) == (Op.ALL_GATHER, 3, 1)
        assert all(world.processes[i].is_alive() for i in (0, 1))


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_messages_pass_down_a_pipeline_in_order(size: int, dtype: torch.dtype) -> None:
    with World(size, "pp", scenarios.chain, 800, dtype) as world:
        results = world.results()
    sent = 800 // 4 * (0 + 1 + 3 + 50) * 7 * dtype.itemsize
    assert [taken.bytes for taken in results] == [sent] * (size - 1) + [0]
    assert [taken.calls for taken in results] == [800] + [1600] * (size - 2) + [800]


def test_a_sender_goes_on_until_the_ring_is_full() -> None:
    slots = 4  # twice the stages
    with World(2, "pp", scenarios.send_ahead, 20) as world:
        sender = world.board.ranks[0]
        until(lambda: sender.op_seq == slots + 1, "it never sent so many")
        assert (Op(sender.op), sender.op_done) == (Op.SEND, 0)
        assert world.board.ranks[1].op_seq == 0
        world.go.set()
        (received, sent), (waited, _) = world.results()
    assert received == 0, "a sender's waiting is no waiting for a previous stage"
    assert sent.wait_ns > 0
    assert waited >= 0


def test_a_receive_tells_how_long_it_waited_for_its_sender() -> None:
    with World(2, "pp", scenarios.receive_early) as world:
        (sent_at, _, none, _), (came, left, waited, rest) = world.results()
    assert waited == pytest.approx(sent_at - came, rel=0.1)
    assert none == 0
    assert rest.wait_ns == 0, "it is counted once"
    assert waited + rest.transfer_ns <= left - came


def test_a_message_beyond_the_segment_is_refused_with_its_size() -> None:
    with World(2, "tp", scenarios.too_large, SLOT // 4 + 1) as world:
        assert all(f"{SLOT + 4} bytes" in words and str(SLOT) in words for words in world.results())
    with World(2, "tp", scenarios.too_large, SLOT // 4) as world:
        assert world.results() == ["", ""]


def test_a_single_member_has_nothing_to_say() -> None:
    status = Board.create(1).ranks[0]
    alone = Communicator("tp", 1, 0, None, status)
    x = torch.arange(6.0).view(2, 3)
    counts = torch.tensor([[2]])
    assert torch.equal(alone.all_reduce(x.clone()), x)
    assert torch.equal(alone.all_gather(x), x[None])
    assert torch.equal(alone.reduce_scatter(x[None]), x)
    assert torch.equal(alone.broadcast(x), x)
    assert all(torch.equal(a, b) for a, b in zip(alone.all_to_all(x, counts), (x, counts), strict=True))
    alone.barrier()
    assert alone.take() is None
    assert status.op_seq == 0
    with pytest.raises(ValueError, match="axis tp has 2 members and no transport"):
        Communicator("tp", 2, 0, None, status)


DEGREE = st.integers(1, 4)
LAYOUTS = st.builds(Layout, dp=DEGREE, pp=DEGREE, ep=DEGREE, tp=DEGREE)


@given(LAYOUTS, st.integers(1, 10_000), st.integers(1, 10_000))
def test_nobody_shares_a_byte_of_the_segment(layout: Layout, slot: int, channel: int) -> None:
    places = map_segment(layout, slot, channel, 2 * layout.pp)
    regions = sorted([*places.stations.values(), *places.channels.values()], key=lambda region: region.offset)
    assert all(a.end <= b.offset for a, b in itertools.pairwise(regions))
    assert all(region.offset % PAGE == region.slot_bytes % PAGE == 0 for region in regions)
    assert places.size >= max([region.end for region in regions], default=1)
    # every group of tp and ep has its station; every pair of neighbouring stages its channel
    groups = {layout.group(rank, axis) for rank in range(layout.world_size) for axis in ("tp", "ep")}
    assert set(places.stations) == {group for group in groups if len(group) > 1}
    stages = {layout.group(rank, "pp") for rank in range(layout.world_size)}
    assert set(places.channels) == {pair for group in stages for pair in itertools.pairwise(group)}


@given(ep=st.integers(1, 4), tp=st.sampled_from([1, 2, 4]), tokens=st.integers(1, 300), sequences=st.integers(1, 64))
def test_the_largest_messages_of_a_model_fit(ep: int, tp: int, tokens: int, sequences: int) -> None:
    """Also when every token of every member goes to the experts of one, which sends all results back."""
    shape = parse_shape(synthetic_config("mixtral"))
    places = plan_segment(Layout(ep=ep, tp=tp), shape, tokens, sequences, 4)
    most = max(tokens, sequences)
    rows = ep * most * shape.experts_per_token * shape.hidden_size * 4
    widest = -(-shape.num_experts // ep)
    dispatch = rows + 8 * ep * widest + 64
    logits = sequences * -(-shape.vocab_size // tp) * 4
    for group, region in places.stations.items():
        assert region.slot_bytes >= max(most * shape.hidden_size * 4, dispatch if len(group) == ep else 0, logits)
