"""Steps of one group, joined: who comes late, what it costs the others, and what a step's time splits into."""

import pytest
from handmade import MS, S, deployment, engine, envelope, step

from telemetry.fold import Fold
from telemetry.records import AxisTime

T = 1000 * S


def ranks_of(*records, now=T + 5 * S):
    fold = Fold()
    for record in records:
        fold.add(envelope(record, sender="daemon"), T + 100 * S)
    return fold.snapshot(now).deployments[0].ranks


def group_step(number, waits, *, transfer=10 * MS, start=T, axis="tp", told_apart=True, first_rank=0):
    for rank, wait in enumerate(waits):
        time = AxisTime(4, 4096, wait, transfer) if told_apart else AxisTime(4, 4096, 0, wait + transfer)
        yield step(start + number * 200 * MS, 50 * MS, rank=first_rank + rank, number=number, axes={axis: time})


def test_who_waits_least_is_late_and_what_the_others_wait_more_is_by_how_much():
    ranks = ranks_of(deployment(tp=3), *(s for i in range(10) for s in group_step(i, [40 * MS, 32 * MS, 2 * MS])))
    assert [rank.axes["tp"].late_ms for rank in ranks] == pytest.approx([0, 0, 34])


def test_lateness_is_a_mean_over_all_joined_steps():
    slow = [[30 * MS, 0], [0, 10 * MS], [5 * MS, 5 * MS], [50 * MS, 0]]
    ranks = ranks_of(deployment(tp=2), *(s for i, waits in enumerate(slow) for s in group_step(i, waits)))
    assert [rank.axes["tp"].late_ms for rank in ranks] == pytest.approx([10 / 4, 80 / 4])


def test_steps_are_joined_by_number_in_whatever_order_they_come():
    one = [s for i in range(5) for s in group_step(i, [40 * MS, 0])]
    ranks = ranks_of(deployment(tp=2), *(s for s in one if s.rank == 0), *(s for s in one if s.rank == 1))
    assert [rank.axes["tp"].late_ms for rank in ranks] == pytest.approx([0, 40])


def test_a_step_that_not_all_told_of_is_not_judged():
    ranks = ranks_of(deployment(tp=2), *(s for i in range(100) for s in group_step(i, [40 * MS, 0]) if s.rank == 0))
    assert ranks[0].axes["tp"].late_ms is None


def test_every_group_on_every_axis_has_its_own_last():
    records = [s for i in range(4) for s in group_step(i, [9 * MS, 0], axis="tp")]
    records += [s for i in range(4) for s in group_step(i, [0, 30 * MS], axis="tp", first_rank=2)]
    ranks = ranks_of(deployment(dp=2, tp=2), *records)
    assert [rank.axes["tp"].late_ms for rank in ranks] == pytest.approx([0, 9, 30, 0])


def test_an_expert_group_crosses_the_tp_groups():
    """Ranks 0 and 2 are an ep group, 1 and 3 the other."""
    records = []
    for number in range(4):
        for rank, wait in enumerate([0, 8 * MS, 20 * MS, 0]):
            records.append(step(T, 50 * MS, rank=rank, number=number, axes={"ep": AxisTime(1, 1, wait, MS)}))
    ranks = ranks_of(deployment(ep=2, tp=2), *records)
    assert [rank.axes["ep"].late_ms for rank in ranks] == pytest.approx([20, 0, 0, 8])


def test_where_no_transport_tells_wait_from_transfer_the_join_does():
    records = [s for i in range(10) for s in group_step(i, [40 * MS, 0], told_apart=False)]
    early, late = ranks_of(deployment(tp=2), engine(T), *records)
    assert (early.axes["tp"].wait_ms, early.axes["tp"].transfer_ms) == pytest.approx((40, 10))
    assert (late.axes["tp"].wait_ms, late.axes["tp"].transfer_ms) == pytest.approx((0, 10))
    assert late.axes["tp"].late_ms == pytest.approx(40)
    assert early.split.wait == pytest.approx(40)
    assert (early.split.compute, early.split.transfer) == pytest.approx((50, 10))


def test_the_split_is_of_the_time_with_work_and_sums_to_100():
    axes = {"tp": AxisTime(4, 4096, 150 * MS, 50 * MS)}
    records = [step(T + i * S + 100 * MS, 500 * MS, idle=100 * MS if i else 9 * S, gap=200 * MS, axes=axes) for i in range(10)]
    (rank, _) = ranks_of(deployment(tp=2), engine(T - 9 * S, running=0), engine(T), *records, now=T + 10 * S)
    split = rank.split
    assert (split.compute, split.transfer, split.wait, split.stage, split.host) == pytest.approx((50, 5, 15, 0, 30))


def test_in_a_pipeline_idle_with_work_is_waiting_for_the_round():
    records = [step(T + i * S + 300 * MS, 500 * MS, idle=300 * MS if i else 9 * S, gap=50 * MS, recv=150 * MS) for i in range(10)]
    (rank, _) = ranks_of(deployment(pp=2), engine(T - 9 * S, running=0), engine(T), *records, now=T + 10 * S)
    split = rank.split
    assert (split.compute, split.stage, split.host) == pytest.approx((50, 45, 5))
    assert rank.bubble_pct == pytest.approx(split.stage)


def test_no_steps_no_split():
    (rank,) = ranks_of(deployment())
    assert rank.split is None


def test_the_ideal_is_of_the_micro_batches_that_were_in_flight():
    def ideal(in_flight, pp=4):
        fold = Fold()
        records = [engine(T + i * S // 4, in_flight=in_flight) for i in range(40)] + [engine(T - S, running=0, in_flight=9)]
        for record in (deployment(pp=pp), *records):
            fold.add(envelope(record, sender="daemon"), T + 100 * S)
        return fold.snapshot(T + 10 * S).deployments[0].ideal_bubble_pct

    assert ideal(1) == pytest.approx(75)
    assert ideal(3) == pytest.approx(25)
    assert ideal(8) == pytest.approx(0)
    assert ideal(2, pp=1) is None


def test_no_demand_is_told_apart():
    fold = Fold()
    for record in (deployment(), engine(T, running=0), engine(T + 4 * S, running=1)):
        fold.add(envelope(record, sender="daemon"), T + 100 * S)
    assert fold.snapshot(T + 10 * S).deployments[0].no_demand_pct == pytest.approx(40)
