"""Collectives, folded from all ranks: what is known by hand comes out."""

from random import Random

import pytest
from handmade import MS, S, collective, deployment, envelope

from telemetry.fold import Fold
from telemetry.formulas import by_chance

T = 1000 * S
US = 1000


def folded(records, **layout):
    fold = Fold()
    for record in (deployment(**layout), *records):
        fold.add(envelope(record, sender="daemon"), T + 100 * S)
    return fold


def views(fold, now=T + 10 * S):
    return fold.snapshot(now).deployments[0].collectives


def seconds(late=(), tp=2, groups=1, count=10, calls=100, wait=20 * US, transfer=50 * US):
    """`count` seconds of `groups` tp groups; rank r is `late[r]` ns late to each call."""
    late = dict(late)
    for i in range(1, count + 1):
        for rank in range(tp * groups):
            group = range(rank // tp * tp, rank // tp * tp + tp)
            worst = max(late.get(member, 0) for member in group)
            mine = wait + worst - late.get(rank, 0)
            yield collective(T + i * S, rank, [mine] * calls, [transfer] * calls, members=tp)


def test_ranks_are_merged_and_bandwidths_are_nccl_tests():
    (view,) = views(folded(seconds(tp=4, transfer=100 * US), tp=4))
    assert (view.axis, view.op, view.size_class, view.members) == ("tp", "all_reduce", 12, 4)
    assert view.calls_per_s == pytest.approx(100)
    assert (view.bytes, view.wait_us, view.transfer_us) == pytest.approx((4096, 20, 100))
    assert view.algorithm_bandwidth == pytest.approx(4096 / 100e-6)
    assert view.bus_bandwidth == pytest.approx(4096 / 100e-6 * 1.5)
    assert view.straggler is None


def test_percentiles_are_exact_to_an_eighth_of_an_octave():
    numbers = Random(1)
    waits = [numbers.randrange(1 * US, 400 * US) for _ in range(1000)]
    transfers = [numbers.randrange(30 * US, 90 * US) for _ in range(1000)]
    records = [collective(T + i * S, rank, waits, transfers) for i in range(1, 11) for rank in (0, 1)]
    (view,) = views(folded(records, tp=2))
    durations = sorted(w + t for w, t in zip(waits, transfers, strict=True))
    assert view.p50_us == pytest.approx(durations[500] / 1e3, rel=0.1)
    assert view.p99_us == pytest.approx(durations[990] / 1e3, rel=0.1)
    assert view.wait_p99_us == pytest.approx(sorted(waits)[990] / 1e3, rel=0.1)


def test_kinds_are_kept_apart():
    records = [
        collective(T + 9 * S, 0, [1000], [1000]),
        collective(T + 9 * S, 0, [1000], [1000], size=5000),
        collective(T + 9 * S, 0, [1000], [1000], op="all_gather"),
        collective(T + 9 * S, 0, [1000], [1000], op="all_to_all", axis="ep"),
    ]
    kinds = [(view.axis, view.op, view.size_class) for view in views(folded(records, tp=2))]
    assert kinds == [("ep", "all_to_all", 12), ("tp", "all_gather", 12), ("tp", "all_reduce", 12), ("tp", "all_reduce", 13)]


def test_the_straggler_is_who_the_others_wait_for():
    (view,) = views(folded(seconds({5: 300 * US, 2: 100 * US}, tp=4, groups=2), dp=2, tp=4))
    assert view.straggler == 5
    assert view.late_us == pytest.approx(300)


def test_a_lead_by_chance_names_nobody():
    numbers = Random(7)

    def noisy():
        for i in range(1, 11):
            for rank in range(4):
                waits = [numbers.randrange(0, 400 * US) for _ in range(3)]
                yield collective(T + i * S, rank, waits, [US] * 3, members=4)

    named = [views(folded(noisy(), tp=4))[0].straggler for _ in range(50)]
    assert named.count(None) >= 45


def test_a_lead_that_costs_nothing_names_nobody():
    (view,) = views(folded(seconds({1: 2 * US}), tp=2))
    assert (view.straggler, view.late_us) == (None, None)


def test_a_straggler_is_named_when_few_seconds_have_passed_and_not_before():
    assert views(folded(seconds({1: 300 * US}, count=4), tp=2), T + 4 * S)[0].straggler is None
    assert views(folded(seconds({1: 300 * US}, count=7), tp=2), T + 7 * S)[0].straggler == 1
    assert by_chance(6, 6, 2) < 0.05 < by_chance(5, 5, 2)


def test_a_transport_that_cannot_tell_wait_from_transfer():
    """Through NCCL or gloo all time in a call is one figure: who is inside least waited for nobody."""

    def unsplit():
        for i in range(1, 11):
            yield collective(T + i * S, 0, [0] * 10, [900 * US] * 10)
            yield collective(T + i * S, 1, [0] * 10, [100 * US] * 10)

    (view,) = views(folded(unsplit(), tp=2))
    assert (view.wait_us, view.transfer_us) == pytest.approx((400, 100))
    assert view.wait_p99_us is None
    assert view.algorithm_bandwidth == pytest.approx(4096 / 100e-6)
    assert (view.straggler, view.late_us) == (1, pytest.approx(800))


def test_who_awaits_a_message_awaits_no_straggler():
    records = [
        record
        for i in range(1, 11)
        for record in (
            collective(T + i * S, 0, [0], [5 * US], op="send", axis="pp"),
            collective(T + i * S, 1, [900 * US], [5 * US], op="recv", axis="pp"),
        )
    ]
    assert [view.straggler for view in views(folded(records, pp=2))] == [None, None]


def test_rates_hold_while_the_last_second_is_not_told_yet():
    fold = folded([], tp=2)
    for i in range(1, 30):
        for rank, when in ((0, T + i * S), (1, T + i * S + 700 * MS)):
            fold.add(envelope(collective(when, rank, [10] * 100, [10] * 100)), when)
            for later in range(0, 300, 100):
                (view,) = views(fold, when + later * MS)
                assert view.calls_per_s == pytest.approx(100, rel=0.03)


def test_old_calls_leave_the_window():
    fold = folded(seconds(count=3), tp=2)
    assert views(fold, T + 12 * S)
    assert views(fold, T + 30 * S) == ()


def test_what_no_sender_may_claim_is_bounded():
    def claims():
        for i in range(2000):
            yield collective(T + i, i % 2, [1], [1], op=f"op{i}", size=1 << (i % 70))
        yield collective(T, 0, [1], [1], op="x" * 100_000)

    fold = folded(claims(), tp=2)
    assert len(views(fold, T + S)) <= 32
