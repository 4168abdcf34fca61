"""The fold against records whose answer is known by hand."""

from random import Random
from types import NoneType, UnionType
from typing import Annotated, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from handmade import MS, S, collective, deployment, engine, envelope, request, step
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.codec import (
    CodecError,
    decode_envelope,
    decode_keyframe,
    decode_snapshot,
    encode_envelope,
    encode_keyframe,
    encode_snapshot,
)
from telemetry.diagnosis import diagnose
from telemetry.fold import MAX_EVENTS, Fold
from telemetry.prometheus import render
from telemetry.records import AxisTime, DeviceRecord, EventRecord, ExpertRecord, Peaks, RankMemory, Record

T = 1000 * S


def fold_of(*records, arrived=T + 100 * S):
    fold = Fold()
    for record in records:
        fold.add(envelope(record, sender="daemon"), arrived)
    return fold


def first_rank(fold, now):
    return fold.snapshot(now).deployments[0].ranks[0]


def first_engine(fold, now):
    return fold.snapshot(now).deployments[0].engine


def test_util_counts_compute_and_transfer_and_no_demand_is_no_bubble():
    fold = fold_of(deployment(), engine(T - 20 * S, running=0), engine(T, running=1))
    axes = {"tp": AxisTime(calls=4, bytes=4096, wait_ns=100 * MS, transfer_ns=200 * MS)}
    fold.add(envelope(step(T, 500 * MS, idle=20 * S, gap=200 * MS, axes=axes)), T + 2 * S)
    fold.add(envelope(engine(T + S, running=0)), T + 2 * S)
    rank = first_rank(fold, T + 5 * S)
    assert rank.util == pytest.approx(7.0)  # 0.7 s of 10: the idle seconds around the step are known to be without work
    assert rank.bubble_pct == pytest.approx(0.0)
    assert (rank.step_ms, rank.compute_ms, rank.gap_ms) == pytest.approx((1000, 500, 200))
    assert rank.allreduce_ms == pytest.approx(300)
    assert rank.axes["tp"].bytes == pytest.approx(4096)
    assert rank.age_s == pytest.approx(4.0)


def test_what_the_model_needs_beside_what_the_device_can():
    """Of the time with work: two steps of a second and a second between them, in which the replica had some."""
    told = msgspec.structs.replace(deployment(), peaks=Peaks(1e12, 1e9, "h200's data sheet"))
    fold = fold_of(told, engine(T - 5 * S, running=0), engine(T, running=1))
    for start in (T, T + 2 * S):
        done = {"flops": 3 * 10**11, "weight_bytes": 2 * 10**8, "kv_bytes": 10**8}
        fold.add(envelope(msgspec.structs.replace(step(start, S, idle=S if start > T else 0), **done)), start + S)
    fold.add(envelope(engine(T + 3 * S, running=0)), T + 3 * S)
    view = fold.snapshot(T + 6 * S).deployments[0]
    work = view.ranks[0].work
    assert (work.flops_per_s, work.weight_bytes_per_s, work.kv_bytes_per_s) == pytest.approx((2e11, 4e8 / 3, 2e8 / 3))
    assert (work.mfu_pct, work.mbu_pct) == pytest.approx((20, 20))
    assert (view.mfu_pct, view.mbu_pct) == pytest.approx((20, 20))
    assert (work.flops, work.weight_bytes, work.kv_bytes) == (6e11, 4e8, 2e8)
    assert view.peaks.source == "h200's data sheet"
    later = fold.snapshot(T + 60 * S).deployments[0]
    assert (later.ranks[0].work.mfu_pct, later.mfu_pct, later.ranks[0].work.flops) == (None, None, 6e11), (
        "no work, no share of it"
    )


def test_utilization_is_unavailable_and_never_zero_where_something_is_not_known():
    counted = msgspec.structs.replace(step(T, S), flops=10**9, weight_bytes=10**6, kv_bytes=0)
    no_peaks = fold_of(deployment(), engine(T), counted).snapshot(T + S).deployments[0]
    assert no_peaks.ranks[0].work.flops_per_s == pytest.approx(1e9)
    assert (no_peaks.ranks[0].work.mfu_pct, no_peaks.mbu_pct) == (None, None)
    told = msgspec.structs.replace(deployment(), peaks=Peaks(1e12, 1e9, "x"))
    older = fold_of(told, engine(T), step(T, S)).snapshot(T + S).deployments[0]
    assert (older.ranks[0].work, older.mfu_pct) == (None, None), "its ranks do not count"
    nothing = msgspec.structs.replace(counted, flops=0, weight_bytes=0)
    idle = fold_of(told, engine(T), nothing).snapshot(T + S).deployments[0]
    assert (idle.mfu_pct, idle.mbu_pct) == (0.0, 0.0), "a step without tokens needs nothing, and that is known"


def test_bubble_is_idle_with_work_and_waiting_for_the_previous_stage():
    fold = fold_of(deployment(pp=2), engine(T - 10 * S, running=0), engine(T, running=2))
    for i in range(10):  # each second: 0.3 s idle while stage 0 works, 0.2 s waiting for it, 0.5 s of its own
        start = T + i * S + 300 * MS
        fold.add(envelope(step(start, 500 * MS, idle=300 * MS if i else 5 * S, recv=200 * MS)), start + S)
    rank = first_rank(fold, T + 10 * S)
    assert rank.bubble_pct == pytest.approx(50.0)
    assert rank.util == pytest.approx(50.0)
    assert rank.util_history[-10:] == pytest.approx([50.0] * 10)


def test_idle_is_cut_exactly_where_work_began():
    fold = fold_of(deployment(), engine(T - 3600 * S, running=0), engine(T + 600 * MS, running=1))
    fold.add(envelope(step(T + S, S, idle=3601 * S)), T + 2 * S)
    assert first_rank(fold, T + 2 * S).bubble_pct == pytest.approx(100 * 0.4 / 1.4)


def test_a_step_under_way_lowers_nothing_and_a_silent_rank_becomes_unavailable():
    fold = fold_of(deployment(), engine(T, running=1), *(step(T + i * S, S) for i in range(10)))
    assert first_rank(fold, T + 10 * S).util == pytest.approx(100)
    assert first_rank(fold, T + 15 * S).util == pytest.approx(100)
    silent = first_rank(fold, T + 25 * S)
    assert (silent.util, silent.bubble_pct, silent.step_ms) == (None, None, None)
    assert silent.age_s == pytest.approx(15)


def test_the_window_slides_through_the_second():
    fold = fold_of(deployment(), engine(T, running=0), engine(T + S, running=1), step(T + S, S), engine(T + 2 * S, running=0))
    assert first_rank(fold, T + 11 * S + 500 * MS).util == pytest.approx(5.0)
    assert first_rank(fold, T + 12 * S).util == pytest.approx(0.0)


def test_rates_of_an_engine_come_from_its_counters():
    first = engine(T, generated=1_000_000, prompt_tokens=500)  # history of before we looked: no rate
    fold = fold_of(
        deployment(), first, *(engine(T + i * S, generated=1_000_000 + 100 * i, prompt_tokens=500) for i in range(1, 11))
    )
    view = first_engine(fold, T + 10 * S)
    assert view.tokens_per_s == pytest.approx(100)
    assert view.prompt_tokens_per_s == 0
    assert view.tokens_history == pytest.approx([100.0] * 10)
    assert view.generated_tokens == 1_001_000


def test_replicas_add_up():
    fold = fold_of(deployment(dp=2))
    for replica in (0, 1):
        for i in range(11):
            fold.add(envelope(engine(T + i * S, running=3, generated=50 * i, replica=replica)), T + 20 * S)
    view = first_engine(fold, T + 10 * S)
    assert (view.running, view.kv_total, view.generated_tokens) == (6, 128, 1000)
    assert view.tokens_per_s == pytest.approx(100)


def test_a_counter_that_starts_again_never_gives_a_negative_rate():
    fold = fold_of(deployment(), engine(T, generated=0), engine(T + S, generated=900))
    fold.add(envelope(deployment(generation=2)), T + 2 * S)
    fold.add(envelope(engine(T + 2 * S, generated=30, generation=2)), T + 2 * S)
    view = first_engine(fold, T + 3 * S)
    assert view.generated_tokens == 930
    assert min(view.tokens_history) >= 0
    assert view.tokens_per_s == pytest.approx(310)


def test_an_older_generation_is_ignored_and_a_newer_one_starts_afresh():
    fold = fold_of(deployment(), step(T, S), deployment(generation=2), step(T + S, S, generation=1), engine(T, running=9))
    assert first_rank(fold, T + 3 * S).steps == 0
    assert first_engine(fold, T + 3 * S).running == 0
    fold.add(envelope(deployment(generation=1, state="FAILED")), T + 3 * S)
    assert fold.snapshot(T + 3 * S).deployments[0].state == "READY"
    fold.add(envelope(step(T + 2 * S, S, generation=2)), T + 3 * S)
    assert first_rank(fold, T + 3 * S).steps == 1
    fold.add(envelope(request(T + 3 * S, generation=1)), T + 3 * S)  # finished is finished
    assert first_engine(fold, T + 3 * S).finished_by_reason == {"stop": 1}


def test_latencies():
    fold = fold_of(
        deployment(), *(request(T + S, ttft_ms=t, itl_ms=t // 10) for t in (100, 200, 300)), request(T - 60 * S, ttft_ms=9)
    )
    view = first_engine(fold, T + 2 * S)
    assert view.ttft_ms_p50 == pytest.approx(200)
    assert view.ttft_ms_p99 == pytest.approx(298)
    assert view.itl_ms_p50 == pytest.approx(20)
    histogram = view.histograms["time_to_first_token_seconds"]
    assert sum(histogram.counts) == 4
    assert histogram.counts[histogram.bounds.index(0.1)] == 1  # a bound belongs to the bucket below it
    assert first_engine(fold, T + 30 * S).ttft_ms_p50 is None


def test_memory_device_experts_and_faults():
    info = RankMemory(0, 1, weights=100, kv=50, activations=None, total=1000, free=700)
    experts = [
        ExpertRecord(0, 1, T, T + S, [0, 1], [0, 1], [[1, 0], [0, 2]]),
        ExpertRecord(0, 1, T + S, T + 2 * S, [0], [0, 1], [[3, 4]]),
    ]
    fold = fold_of(deployment(), info, step(T, S, memory=160), step(T + S, S, memory=170), *experts)
    fold.add(envelope(DeviceRecord(0, 1, T + 3 * S, cpu_percent=95.0, rss=180)), T + 3 * S)
    rank = first_rank(fold, T + 3 * S)
    assert (rank.memory.weights, rank.memory.activations, rank.memory.used, rank.memory.total) == (100, None, 180, 1000)
    assert (rank.cpu_percent, rank.gpu_util) == (95.0, None)
    assert rank.expert_tokens == (4, 6)
    fold.add(envelope(EventRecord("demo", 1, T + 3 * S, "error", "rank-died", "killed", rank=0)), T + 3 * S)
    assert first_rank(fold, T + 3 * S).state == "DEAD"


def test_a_suspension_lasts_from_signal_to_signal_and_counts_within_the_window():
    def signal(kind, at):
        return EventRecord("demo", 1, at, "warning", kind, "", rank=0)

    fold = fold_of(deployment(), engine(T), step(T, S), signal("suspended", T + 2 * S))
    rank = first_rank(fold, T + 4 * S)
    assert (rank.state, rank.suspended_s) == ("SUSPENDED", 2.0)
    for record in (signal("resumed", T + 5 * S), signal("suspended", T + 6 * S), signal("resumed", T + 6 * S + 500 * MS)):
        fold.add(envelope(record, sender="daemon"), T + 7 * S)
    rank = first_rank(fold, T + 10 * S)
    assert (rank.state, rank.suspended_s) == ("READY", 3.5)
    assert first_rank(fold, T + 14 * S).suspended_s == 1.5
    again = Fold.restored(decode_keyframe(encode_keyframe(fold.keyframe(T + 10 * S))))
    assert first_rank(again, T + 14 * S) == first_rank(fold, T + 14 * S)


def test_losses_of_gaps_refusals_and_lives_add_up():
    fold = fold_of(deployment())
    for boot, seq, lost in ((7, 5, 0), (7, 6, 0), (7, 9, 3), (8, 1, 0)):
        fold.add(envelope(sender="rank:0", boot=boot, seq=seq, lost=lost), T)
    assert fold.snapshot(T).lost == 2 + 3 + 1
    assert first_rank(fold, T).lost == 1


def test_events_are_bounded_and_the_future_is_refused():
    fold = fold_of(deployment())
    for i in range(MAX_EVENTS + 5):
        fold.add(envelope(EventRecord("demo", 1, i, "info", "state", str(i))), T)
    fold.add(envelope(step(T + 3600 * S, S), EventRecord("demo", 1, 1 << 62, "info", "state", "later")), T)
    snapshot = fold.snapshot(T)
    assert (len(snapshot.events), snapshot.events[-1].text) == (MAX_EVENTS, str(MAX_EVENTS + 4))
    assert snapshot.refused == 2


def test_what_nobody_announced_is_ignored_and_old_deployments_make_room():
    fold = fold_of(step(T, S), engine(T))
    assert fold.snapshot(T).deployments == ()
    for i in range(100):
        fold.add(envelope(deployment(name=f"d{i}", state="READY" if i == 0 else "STOPPED", time_ns=i)), T)
    names = [d.name for d in fold.snapshot(T).deployments]
    assert (len(names), names[0], names[-1]) == (64, "d0", "d99")


def test_the_same_records_give_the_same_snapshot_and_it_travels():
    records = [
        deployment(tp=2),
        engine(T),
        *(step(T + i * S // 3, S // 3) for i in range(30)),
        engine(T + 9 * S, generated=99),
        request(T + 9 * S),
    ]
    one, two = fold_of(*records).snapshot(T + 10 * S), fold_of(*records).snapshot(T + 10 * S)
    assert msgspec.msgpack.encode(one) == msgspec.msgpack.encode(two)
    assert decode_snapshot(encode_snapshot(1, one)).snapshot == one


def whole_run():
    """(arrival, message) of a minute of two tp ranks and their engine, all kinds of records, a rank now and then late."""
    records = [
        (T, msgspec.structs.replace(deployment(tp=2), peaks=Peaks(1e14, 1e11, "h200"))),
        (T, RankMemory(0, 1, 100, 50, None, 1000, 700, used=300, time_ns=T)),
        (T, engine(T, running=4, generated=77)),
    ]
    for i in range(40):
        at = T + i * 3 * S // 2
        for rank in (0, 1):
            axes = {"tp": AxisTime(4, 4096, (20 + 9 * i * rank) * MS if i % 3 else 0, (11 + 3 * rank) * MS)}
            stepped = step(at + rank * MS, 700 * MS, rank=rank, number=i, idle=i * MS, axes=axes)
            if i > 5:
                stepped = msgspec.structs.replace(stepped, flops=i << 40, weight_bytes=1 << 30, kv_bytes=i << 20)
            if i % 5 != 4 or rank:  # the other one's message is lost: that step is never joined
                records.append((at + 2 * S + rank * S // 4, stepped))
            calls = collective(at, rank, [i * MS, 7], [MS, 9 * MS], start_ns=at - S // (1 + i % 3), size=100 << i % 4)
            records.append((at + rank * S // 3, calls))
        told = engine(at + S, running=i % 3, generated=100 + 7 * i, finished=i, in_flight=i)
        records += [(at + S, told), (at + S, request(at + S, ttft_ms=50 + i))]
        records += [
            (at + S, EventRecord("demo", 1, at + S, "info", "state", str(i))),
            (at, DeviceRecord(i % 2, 1, at, rss=i, cpu_percent=1.5 * i, throttle=["SW power cap"])),
            (at, ExpertRecord(0, 1, at - S, at, [0, i % 3], [0, 1], [[i, 2 * i], [3, 4]])),
        ]
    records.sort(key=lambda pair: pair[0])
    return [(arrived, envelope(record, seq=2 * i, sender="daemon")) for i, (arrived, record) in enumerate(records)]


RUN = whole_run()


@pytest.mark.parametrize("cut", [0, 1, 7, 70, 140, 230, len(RUN) - 1])
def test_a_fold_restored_from_a_keyframe_goes_on_as_if_nothing_had_been(cut):
    whole, first = Fold(), Fold()
    for arrived, message in RUN[:cut]:
        first.add(message, arrived)
        whole.add(message, arrived)
    second = Fold.restored(decode_keyframe(encode_keyframe(first.keyframe(RUN[cut][0]))))
    for arrived, message in RUN[cut:]:
        assert second.snapshot(arrived) == whole.snapshot(arrived)
        whole.add(message, arrived)
        second.add(message, arrived)
    for later in range(0, 15 * S, S // 2):
        assert second.snapshot(RUN[-1][0] + later) == whole.snapshot(RUN[-1][0] + later)


def test_the_run_of_which_keyframes_are_taken_shows_everything():
    fold = Fold()
    for arrived, message in RUN:
        fold.add(message, arrived)
    view = fold.snapshot(RUN[-1][0]).deployments[0]
    assert view.experts.tokens
    assert len(view.collectives) == 4
    assert all(rank.axes["tp"].late_ms is not None and rank.split and rank.work.mbu_pct for rank in view.ranks)


def test_a_keyframe_of_before_the_last_version_can_be_entered():
    """Its ranks have whole last steps and pairs of numbers for walls, and neither collectives nor experts."""
    old = fold_of(deployment(), engine(T), step(T, S, memory=99)).keyframe(T + S)
    rank = msgspec.structs.replace(old.deployments[0].ranks[0], last=step(T, S, memory=99), walls=[(T + S, S)])
    fields = [*msgspec.structs.astuple(msgspec.structs.replace(old.deployments[0], ranks={0: rank}))][:4]
    message = [*msgspec.structs.astuple(old)]
    message[6] = [fields]
    view = Fold.restored(decode_keyframe(msgspec.msgpack.encode(message))).snapshot(T + 2 * S).deployments[0]
    assert (view.ranks[0].age_s, view.ranks[0].memory.used, view.ranks[0].step_ms) == (1.0, 99, 1000.0)


@pytest.mark.parametrize("walls", [b"1234567", bytes(8), bytes(8 * 2 * 257)], ids=["torn", "odd", "too many"])
def test_a_keyframe_whose_walls_are_no_steps_is_refused(walls):
    kept = fold_of(deployment(), engine(T), step(T, S)).keyframe(T + S)
    broken = msgspec.structs.replace(kept.deployments[0].ranks[0], walls=walls)
    kept.deployments[0].ranks[0] = broken
    with pytest.raises(ValueError, match=r"no ends and walls|bytes length"):
        Fold.restored(decode_keyframe(encode_keyframe(kept)))


def test_a_keyframe_and_its_folds_share_nothing():
    first = fold_of(deployment(), engine(T), step(T, 200 * MS))
    keyframe = first.keyframe(T + S)
    before, second = first.snapshot(T + S), Fold.restored(keyframe)
    for fold in (second, Fold.restored(keyframe)):
        fold.add(envelope(step(T + 300 * MS, 200 * MS), engine(T + S, generated=50), sender="daemon", seq=9), T + S)
    assert first.snapshot(T + S) == before
    assert Fold.restored(keyframe).snapshot(T + S) == before


def test_a_keyframe_of_one_deployment():
    fold = fold_of(deployment(), deployment(name="other"), step(T, S))
    part = Fold.restored(fold.keyframe(T + S).only("demo")).snapshot(T + S)
    assert part.deployments == fold.snapshot(T + S).deployments[:1]


NUMBERS = [0, 1, 1, 2, -1, 1 << 40, S, T, -T, 1 << 62, -(1 << 62), (1 << 64) - 1]


def hostile(hint, draw):
    """Anything that a field of this type lets through."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return min(max(inner[1].ge, draw()), inner[1].le)
    if kind in (Union, UnionType):
        return hostile(inner[draw() % len(inner)], draw)
    if kind is list:
        return [hostile(inner[0], draw) for _ in range(draw() % 4)]
    if kind is dict:
        return {hostile(inner[0], draw): hostile(inner[1], draw) for _ in range(draw() % 4)}
    if hint is int:
        return draw()
    if hint is float:
        return float(draw())
    if hint is str:
        return ("tp", "", "ep", "all_reduce", "x" * 100_000)[draw() % 5]
    if hint is NoneType or hint is bool:
        return None if hint is NoneType else bool(draw())
    return hint(*(hostile(field, draw) for field in get_type_hints(hint, include_extras=True).values()))


def claimed(draw):
    """A record of any kind, half of them of a rank or replica that is there and of its generation."""
    record = hostile(get_args(Record)[draw() % len(get_args(Record))], draw)
    there = {"deployment": "demo", "generation": 1, "rank": draw() % 2, "replica": 0, "members": 2, "size_class": 12}
    there |= {"layers": [0, 1], "experts": [draw(), 3], "tokens": [[1, 2], [1 << 48]], "axes": {"tp": hostile(AxisTime, draw)}}
    fields = {name: value for name, value in there.items() if name in record.__struct_fields__}
    return msgspec.structs.replace(record, **fields) if draw() % 2 else record


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32))
def test_no_record_that_can_be_decoded_breaks_it(seed):
    """Whatever a hostile sender writes, folding, drawing and keeping it raises nothing."""
    numbers = Random(seed)
    fold = fold_of(deployment(tp=2))
    for _ in range(30):
        try:
            message = decode_envelope(encode_envelope(envelope(claimed(lambda: numbers.choice(NUMBERS)))))
        except CodecError:
            continue
        fold.add(message, 1 << 63)
    for now in (T, 0, 1 << 62):
        encode_snapshot(1, fold.snapshot(now))
        render(fold.snapshot(now))
        assert all(diagnose(view, 10.0) for view in fold.snapshot(now).deployments)
        kept = fold.keyframe(now)
        encode_keyframe(kept)
        Fold.restored(kept)
