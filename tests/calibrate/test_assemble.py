"""From what ranks found to what the planner reads, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from measured import found, laps

from runtime.calibrate import assemble
from runtime.calibrate.machine import _calm, _Time
from runtime.calibrate.worlds import World, worlds
from runtime.layout import Layout
from runtime.planner.collectives import all_reduce, hand_over
from runtime.planner.cost import Setup, Work, step
from runtime.planner.hardware import Cluster, Gpu, read_gpu
from runtime.planner.machine import Machine, read_machine, read_power
from runtime.planner.memory import precision
from runtime.planner.models import read_model
from runtime.planner.parameters import Scale, find_engine, find_format
from runtime.planner.sharding import Sharding

BF16 = find_format("bf16")
CONFIG = {"model_type": "llama", "hidden_size": 1000, "intermediate_size": 3000, "num_hidden_layers": 10}
CONFIG |= {"num_attention_heads": 10, "num_key_value_heads": 10, "vocab_size": 1000, "tie_word_embeddings": True}


@pytest.fixture
def machine() -> Machine:
    return read_machine(assemble.rates(found(), 2, 5e-4, 1e-3, 70 << 20))


@pytest.fixture
def cpu(machine: Machine) -> Gpu:
    return replace(read_gpu("cpu", assemble.device(found(), 8 << 30, 2)), machine=machine)


def test_each_world_tells_its_part() -> None:
    asked = {str(world.layout): world.measure for world in worlds(2, shared=True)}
    assert asked["tp1"] == ("parts", "fp32")
    assert asked["tp2"] == ("parts", "fp32", "exchanges")
    assert asked["pp2"] == ("parts", "fp32", "hand_over")
    assert asked["tp2pp2"] == ("exchanges", "crowd")
    assert [world.again.measure for world in worlds(2, shared=True)][1:3] == [("parts", "exchanges"), ("parts", "hand_over")]
    assert {str(world.layout) for world in worlds(8, shared=True)} == {"tp1", "tp2", "tp4", "tp8", "pp2", "pp4", "pp8"}
    assert World(Layout(), ("parts", "fp32")) in worlds(1, shared=False)
    assert {str(world.layout) for world in worlds(4, shared=False)} == {"tp1", "tp2", "tp4", "pp2"}


def test_a_rank_alone_reads_faster_than_beside_others(machine: Machine) -> None:
    alone, both = (machine.rates(2, busy).product(1, 1e9, BF16, Scale()) for busy in (1, 2))
    assert alone == (pytest.approx(2e9 / 12e9), 0)
    assert both.weights == pytest.approx(2e9 / 10e9)
    assert machine.rates(1, 1).product(1, 1e9, BF16, Scale()).weights == pytest.approx(2e9 / 20e9)


def test_rows_beyond_the_last_cost_in_proportion(machine: Machine) -> None:
    rates = machine.rates(2, 2)
    assert sum(rates.product(512, 1e9, BF16, Scale())) == pytest.approx(2 * 512 * 1e9 / 100e9)
    read = rates.product(256, 1e9, BF16, Scale(memory=2.0, compute=3.0))
    assert read.weights == pytest.approx(2 * 0.2)
    assert read.compute == pytest.approx(3 * (5.12 - 0.2))


def test_more_ranks_than_cores_take_turns(machine: Machine) -> None:
    """Two ranks of four at work have the cores to themselves; all four take twice as long, and what was measured more."""
    two, four = (machine.rates(4, busy).product(1, 1e9, BF16, Scale()).weights for busy in (2, 4))
    assert four / two == pytest.approx(2 * machine.crowd.loss)
    # a lap of 1.05 ms, of which 20 us are the exchange, against twice a product of 0.4 ms
    assert machine.crowd.loss == pytest.approx((1.05e-3 - 2e-5) / (2 * 4e-4))
    # while two wait, a lap takes 30 us longer; with work for all nobody waits
    assert machine.wait(4, 2) == pytest.approx(3e-5)
    assert machine.wait(4, 4) == machine.wait(2, 2) == 0


def test_a_machine_that_was_measured_twice_is_the_mean_of_both() -> None:
    """The second time without fp32, and a third slower; what a crowd did is told of each time by itself."""
    both = found()
    for layout, ranks in found().items():
        again = [{**rank} for rank in ranks]
        for rank in again:
            if "products" in rank:
                rank["products"] = {"bf16": [[rows, 2 * seconds] for rows, seconds in rank["products"]["bf16"]]}
                rank["read"] /= 2
            if "hand_over" in rank:
                rank["hand_over"] = [[size, 3 * seconds] for size, seconds in rank["hand_over"]]
            if "laps_together" in rank:
                rank["laps_together"] = laps(2.1e-3, start=500.0)
        both[layout] += again
    machine = read_machine(assemble.rates(both, 2, 5e-4, 1e-3, 70 << 20))
    alone, together = (machine.rates(2, busy) for busy in (1, 2))
    assert alone.product(1, 1e9, BF16, Scale()).weights == pytest.approx(1.5 * 2e9 / 12e9)
    assert together.product(1, 1e9, BF16, Scale()).weights == pytest.approx(1.5 * 2e9 / 10e9)
    assert together.product(1, 1e9, find_format("fp32"), Scale()).weights == pytest.approx(4e9 / 10e9)
    assert together.elementwise(1e9) == pytest.approx(1 / 7.5)
    assert read_power(machine.hand_over, 2048.0) == pytest.approx(2 * 3e-5)
    assert machine.crowd.loss == pytest.approx(((1.05e-3 + 2.1e-3) / 2 - 2e-5) / (2 * 4e-4))
    assert assemble.device(both, 8 << 30, 2)["bandwidth_gb_s"] == pytest.approx(15)
    assert assemble.layer_s(both) == pytest.approx(1e-4)


def test_exchanges_are_those_that_were_measured(cpu: Gpu) -> None:
    assert all_reduce(cpu, "nccl", 2, 2048) == (pytest.approx(2e-5), 0)
    assert sum(all_reduce(cpu, "nccl", 2, 1 << 20)) == pytest.approx(4e-4)
    assert sum(hand_over(cpu, 1 << 20, True)) == pytest.approx(2e-4)


def test_a_step_by_hand(cpu: Gpu) -> None:
    """10 layers of 13 million parameters, a head of a million: 2 bytes each at 20 GB/s, and 10 layers and a step of no size."""
    model = read_model("m", CONFIG)
    setup = Setup(model, Sharding(), Cluster(cpu, 1), precision(model, "bf16", "plain"), find_engine("shardscope"))
    found = step(setup, Work(1, 0)).whole
    assert found.weights == pytest.approx(131e6 * 2 / 20e9)
    assert found.launch == pytest.approx(10 * 1e-4 + 5e-4)
    half = replace(setup, sharding=Sharding(pp=2), cluster=Cluster(cpu, 2))
    piped = step(half, Work(1, 0)).whole
    assert piped.weights == pytest.approx(131e6 * 2 / 12e9)
    assert piped.launch == pytest.approx(10 * 1e-4 + 1e-3)
    split = step(replace(setup, sharding=Sharding(tp=2), cluster=Cluster(cpu, 2)), Work(1, 0, busy=2)).whole
    assert split.weights == pytest.approx(131e6 / 2 * 2 / 10e9)
    assert split.all_reduce == pytest.approx(10 * 2 * 2e-5)


def test_a_few_rows_may_be_quicker_than_one() -> None:
    """oneDNN's kernels for one row and for four differ: what was measured stays as it is."""
    ranks = found()
    ranks[Layout()][0]["products"]["bf16"] = [[1.0, 3e-10], [8.0, 1e-10], [256.0, 5e-9]]
    rates = read_machine(assemble.rates(ranks, 2, 0, 0, 0)).rates(1, 1)
    assert rates.product(1, 1e9, BF16, Scale()) == (pytest.approx(0.3), 0)
    assert rates.product(8, 1e9, BF16, Scale()) == (pytest.approx(0.1), 0)


def test_a_machine_without_crowd_or_second_rank() -> None:
    only = read_machine(assemble.rates({Layout(): found()[Layout()]}, 0, 0, 0, 0))
    assert only.wait(8, 1) == 0
    assert only.rates(8, 8).product(1, 1e9, BF16, Scale()).weights == pytest.approx(0.1)


def test_ranks_with_a_device_each_differ_by_what_is_captured() -> None:
    one = {**found()[Layout()][0], "layer_of_many": [[1.0, 5e-4], [8.0, 6e-4]]}
    devices = read_machine(assemble.rates({Layout(): [one]}, 0, 5e-4, 1e-3, 0))
    assert devices.rates(1, 1).launch(1, 0, 0) == pytest.approx(1e-4)
    assert devices.rates(8, 8).launch(1, 0, 0) == pytest.approx(5e-4)
    same = (devices.rates(n, n).product(8, 1e9, BF16, Scale()) for n in (1, 8))
    assert next(same) == next(same)


def test_products_cost_their_calls() -> None:
    """Four of a layer's, two of an expert's."""
    costly = found()
    for ranks in costly.values():
        for rank in ranks:
            if "calls" in rank:
                rank["calls"] = [[1.0, 1e-5], [8.0, 2e-5]]
    part = assemble.rates(costly, 2, 0, 0, 0)["ranks"]["1"]["together"]
    assert part["layer_us"] == [[1.0, pytest.approx(100 + 40)], [8.0, pytest.approx(200 + 80)]]
    assert part["moe_layer_us"] == [[1.0, pytest.approx(300 + 20)], [8.0, pytest.approx(400 + 40)]]
    assert part["expert_us"] == pytest.approx(20 + 20)


def test_a_machine_of_one_core_or_device() -> None:
    """One device measures no exchange; one core those of ranks that take turns. Both can be planned for."""
    alone = assemble.device({Layout(): found()[Layout()]}, 16 << 30, 1)
    assert alone["measured"] == {}
    assert read_gpu("one", alone).link_bandwidth == 20e9
    crowded = {Layout(): found()[Layout()], Layout(tp=2, pp=2): found()[Layout(tp=2, pp=2)]}
    assert assemble.device(crowded, 16 << 30, 1)["measured"]["all_reduce_us"] == {"2": [[2048.0, pytest.approx(50)]]}


def test_of_several_times_count_the_calm_ones_and_always_a_whole_one() -> None:
    whole = worlds(2, shared=True)[0]
    again = whole.again
    calm, loud, later, worse = _Time(whole, 0.02, []), _Time(whole, 0.5, []), _Time(again, 0.04, []), _Time(again, 0.3, [])
    assert _calm(whole, [calm, later]) == [calm, later]
    assert _calm(whole, [calm, worse]) == [calm]
    assert _calm(whole, [loud, later]) == [loud, later], "nothing else knows of fp32"
    assert _calm(whole, [loud, later, calm]) == [calm, later]
