"""What a step is made of: who comes first, how many steps are in flight, how decodes are divided, what is counted."""

from __future__ import annotations

import random

import pytest
from fake_ranks import World, continuation

from runtime.engine.core import Engine
from runtime.engine.plan import LAST_SAMPLED, MemberPlan, unpack
from runtime.layout import Layout
from runtime.protocol import Generate
from runtime.sampling import SamplingParams

MAX = 64


def wish(tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, ignore_eos=True)


def world(layout: str = "tp1", blocks: int = 200, **limits: object) -> World:
    made = World(random.Random(0))
    made.attach(Layout.parse(layout), MAX, blocks, **limits)
    return made


def decode_rows(member: MemberPlan) -> int:
    return sum(1 for count in unpack(member.counts).tolist() if count == 1)


def test_requests_are_admitted_in_the_order_of_arrival() -> None:
    """Also when a later one would fit and the first does not."""
    w = world(blocks=1 + 8, max_num_seqs=8, prefix_caching=False)
    w.add("holds", [1] * 15, wish(1))  # 4 of 8 blocks
    w.add("large", [2] * 17, wish(1))  # 5 blocks: does not fit yet
    w.add("small", [3] * 2, wish(1))  # would fit, but comes later
    w.run()
    times = {record.request: record.scheduled_ns for record in w.engine.finished}
    assert times["holds"] < times["large"] < times["small"]
    assert list(w.ends) == ["holds", "large", "small"]


def test_the_youngest_gives_way_and_comes_back_first() -> None:
    # 8 blocks of 4: both prompts fit, both outputs do not
    w = world(blocks=1 + 8, max_num_seqs=2, prefix_caching=False)
    for name in ("old", "young", "last"):
        w.add(name, [1, 2, 3] if name == "old" else [1, 2, 2], wish(20))
    w.run()
    assert w.total("preemptions") >= 1
    assert list(w.ends) == ["old", "young", "last"]
    records = {record.request: record for record in w.engine.finished}
    assert records["last"].scheduled_ns > records["old"].finished_ns
    for name, prompt in (("old", [1, 2, 3]), ("young", [1, 2, 2]), ("last", [1, 2, 2])):
        assert w.tokens[name] == continuation(prompt, wish(20), MAX)[0]


@pytest.mark.parametrize(("slots", "requests"), [(2, 9), (3, 10), (4, 5), (4, 10), (4, 16)])
def test_decodes_are_divided_equally_over_the_slots(slots: int, requests: int) -> None:
    w = world(f"pp{slots}", max_num_seqs=32, max_num_batched_tokens=64)
    for i in range(requests):
        w.add(str(i), [1 + i % 3, 2], wish(30))
    w.run()
    steady = [decode_rows(plan.members[0]) for _, plan in w.plans][3 * slots : -4 * slots]
    assert len(steady) > 10
    assert set(steady) == {requests // slots, -(-requests // slots)}


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_the_pipeline_is_filled_before_anything_is_awaited(slots: int) -> None:
    w = world(f"pp{slots + 1}", slots=slots, max_num_seqs=32, max_num_batched_tokens=3)
    for i in range(8):
        w.add(str(i), [1, 2, 3], wish(4))
    assert w.pump() == slots
    assert w.pump() == 0
    w.deliver()
    assert w.pump() == 1
    assert [plan.slot for _, plan in w.plans] == [step % slots for step in range(1, slots + 2)]


def test_the_next_step_is_sent_before_the_token_is_known() -> None:
    w = world()
    w.add("a", [1, 2, 3], wish(5))
    assert w.pump() == 2
    first, second = (plan.members[0] for _, plan in w.plans)
    assert unpack(first.tokens).tolist() == [1, 2, 3]
    assert unpack(second.tokens).tolist() == [LAST_SAMPLED]
    w.run()
    # five tokens take five steps: none is computed in vain after the last
    assert w.total("steps") == 5


def test_without_lookahead_a_sequence_is_in_one_step_at_a_time() -> None:
    w = world("pp2")
    w.add("a", [1, 2, 3], wish(5))
    assert w.pump() == 1
    w.run()
    assert all(LAST_SAMPLED not in unpack(plan.members[0].tokens) for _, plan in w.plans)
    assert w.total("steps") == 5


def test_a_long_prompt_is_cut_and_does_not_stop_decodes() -> None:
    w = world("pp2", slots=1, max_num_batched_tokens=8, prefix_caching=False)
    w.add("a", [1], wish(12))
    w.pump()
    w.deliver()
    w.add("long", [2] * 40, wish(1))
    w.run()
    mixed = [unpack(plan.members[0].counts).tolist() for _, plan in w.plans]
    assert mixed[1:7] == [[1, 7]] * 5 + [[1, 5]]
    assert w.lanes[0, 0].prefills == 41
    assert w.lanes[0, 0].decodes == 11


@pytest.mark.parametrize(("stages", "chunks"), [(1, [40]), (2, [10, 8, 8, 8, 6]), (4, [8] * 5)])
def test_prompts_are_cut_so_that_stages_work_side_by_side(
    stages: int, chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.engine.scheduler.MIN_CHUNK", 8)
    w = world(f"pp{stages}", max_num_batched_tokens=64, prefix_caching=False)
    w.add("long", [2] * 40, wish(1))
    assert w.pump() == min(stages, len(chunks)), "chunks follow one another, none waits for the one before"
    w.run()
    assert [unpack(plan.members[0].counts).tolist() for _, plan in w.plans] == [[count] for count in chunks]
    assert w.tokens["long"] == continuation([2] * 40, wish(1), MAX)[0]


def test_replicas_and_members_share_the_requests() -> None:
    w = world("ep2dp2", max_num_seqs=8, prefix_caching=False)
    for i in range(8):
        w.add(str(i), [1, 2, 1 + i % 3], wish(4))
    w.pump()
    assert [record.running for record in w.engine.records()] == [4, 4]
    assert [len(lane.running) for replica in w.engine._replicas for lane in replica.lanes] == [2, 2, 2, 2]
    w.run()
    assert [record.finished for record in w.engine.records()] == [4, 4]
    assert [record.generated_tokens for record in w.engine.records()] == [16, 16]
    assert {record.replica for record in w.engine.finished} == {0, 1}


def test_a_member_without_work_steps_along() -> None:
    w = world("ep3")
    w.add("only", [1, 2, 3], wish(3))
    w.run()
    assert all(len(plan.members) == 3 for _, plan in w.plans)
    assert all([bool(member.rows) for member in plan.members].count(True) == 1 for _, plan in w.plans)
    assert len(w.tokens["only"]) == 3


def test_a_shared_prefix_is_computed_once_and_counted() -> None:
    w = world(max_num_seqs=4, max_num_batched_tokens=64)
    prompt = [1, 2, 3] * 4
    w.add("first", prompt, wish(2))
    w.run()
    w.add("second", [*prompt, 1, 1], wish(2))
    w.run()
    assert w.ends["first"].cached_tokens == 0
    assert w.ends["second"].cached_tokens == 12
    (record,) = w.engine.records()
    assert (record.prefix_queries, record.prefix_hits) == (12 + 14, 12)
    assert w.lanes[0, 0].prefills == 12 + 2
    assert [request.cached_tokens for request in w.engine.finished] == [0, 12]
    assert record.kv_cached == len(range(0, 14, 4)) - 1


@pytest.mark.parametrize("layout", ["tp1", "pp2"])
def test_what_was_generated_is_found_again_too(layout: str) -> None:
    """The next turn of a conversation begins with this one's answer."""
    w = world(layout)
    w.add("first", [1, 2, 3], wish(6))
    w.run()
    w.add("second", [1, 2, 3, *w.tokens["first"], 1], wish(1))
    w.run()
    assert w.ends["second"].cached_tokens == 8


def test_who_ran_when_the_ranks_went_runs_first_on_the_next() -> None:
    w = world(max_num_seqs=2)
    for name in "abcd":
        w.add(name, [1, 2], wish(8))
    w.pump()
    w.engine.detach()
    assert [sequence.request for sequence in w.engine._waiting] == list("abcd")
    w.attach(Layout.parse("pp2"), MAX, 200, max_num_seqs=1)
    w.run()
    assert list(w.ends) == list("abcd")


def test_requests_that_share_a_prefix_at_once_compute_it_once() -> None:
    """The second is admitted while the first's prompt is still on its way: it comes later in every stage."""
    w = world("pp2", slots=2, max_num_seqs=4, max_num_batched_tokens=64)
    prompt = [1, 2, 3] * 4
    w.add("first", [*prompt, 1], wish(2))
    w.pump()
    w.add("second", [*prompt, 2], wish(2))
    w.pump()
    assert w.lanes[0, 0].prefills == 13 + 1
    w.run()
    assert w.tokens["second"] == continuation([*prompt, 2], wish(2), MAX)[0]


@pytest.mark.parametrize("layout", ["tp1", "pp3"])
def test_an_aborted_request_leaves_once_no_step_holds_it(layout: str) -> None:
    w = world(layout, max_num_batched_tokens=2)
    w.add("a", [1] * 9, wish(4))
    w.add("b", [2] * 3, wish(4))
    w.pump()
    lane = w.engine._replicas[0].lanes[0]
    used = lane.pool.used
    w.engine.abort("a")
    w.engine.abort("a")  # once more does nothing
    w.engine.abort("unknown")
    w.pump()
    assert lane.pool.used >= used, "a step in flight still writes to its blocks"
    sent = len(w.plans)
    w.run()
    assert set(w.ends) == {"b"}
    assert w.tokens["a"] == []
    assert all(len(unpack(plan.members[0].rows)) <= 1 for _, plan in w.plans[sent:])
    w.check_nothing_leaked()
    (record,) = w.engine.records()
    assert (record.aborted, record.finished) == (1, 1)


def test_a_waiting_request_that_is_aborted_never_runs() -> None:
    w = world(max_num_seqs=1)
    w.add("a", [1], wish(3))
    w.add("b", [2], wish(3))
    w.add("c", [3], wish(3))
    w.pump()
    w.engine.abort("b")
    assert w.engine.records()[0].waiting == 1
    w.run()
    assert set(w.ends) == {"a", "c"}
    assert {record.request: record.scheduled_ns is None for record in w.engine.finished} == {"a": False, "b": True, "c": False}


def test_the_queue_has_an_end() -> None:
    engine = Engine("test", max_queue=2)
    assert [engine.add(Generate(str(i), [1], wish(1))) for i in range(2)] == [None, None]
    refused = engine.add(Generate("2", [1], wish(1)))
    assert refused is not None
    assert (refused.error or "").startswith("queue full: 2 ")
    assert (engine.add(Generate("0", [1], wish(1))) or refused).error == "request 0 is already running"


def test_an_answer_that_is_not_owed_is_refused() -> None:
    w = world()
    w.add("a", [1], wish(3))
    w.pump()
    result = w.results[0, 0][0]
    w.deliver()
    with pytest.raises(ValueError, match="does not owe"):
        w.engine.apply(result)
