"""The engine against ranks that check every plan: whatever comes and goes, each request gets exactly its own tokens."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
from fake_ranks import World, continuation
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.layout import Layout
from runtime.protocol import Generate
from runtime.sampling import SamplingParams

MAX_MODEL_LEN = 24


@dataclass(frozen=True)
class Setting:
    """A layout and limits under which every request can end."""

    layout: Layout
    limits: dict[str, Any]
    kv_blocks: int

    def attach(self, world: World) -> None:
        world.attach(self.layout, MAX_MODEL_LEN, self.kv_blocks, **self.limits)


@st.composite
def settings_of_engines(draw: st.DrawFn) -> Setting:
    pp = draw(st.integers(1, 4))
    layout = Layout(dp=draw(st.integers(1, 3)), pp=pp, ep=draw(st.integers(1, 4)), tp=1)
    size = draw(st.integers(1, 5))
    limits = {
        "block_size": size,
        "max_num_seqs": draw(st.integers(1, 5)),
        "max_num_batched_tokens": draw(st.sampled_from([1, 2, 5, 16, 64])),
        "slots": draw(st.integers(1, 4)),
        "prefix_caching": draw(st.booleans()),
    }
    # block 0 is nobody's; at the tightest one sequence fits and no second
    return Setting(layout, limits, 1 + -(-MAX_MODEL_LEN // size) + draw(st.sampled_from([0, 1, 3, 100])))


PROMPTS = st.lists(st.integers(1, 3), min_size=1, max_size=MAX_MODEL_LEN - 1)


@st.composite
def params(draw: st.DrawFn) -> SamplingParams:
    most = draw(st.none() | st.integers(1, 12))
    return SamplingParams(
        max_tokens=most,
        min_tokens=draw(st.integers(0, most or 12)),
        ignore_eos=draw(st.booleans()),
        stop_token_ids=tuple(draw(st.lists(st.integers(0, 7), max_size=2))),
        repetition_penalty=draw(st.sampled_from([1.0, 1.1])),
    )


REQUESTS = st.lists(st.tuples(PROMPTS, params()), min_size=1, max_size=14)


def drive(world: World, requests: list[tuple[list[int], SamplingParams]], aborts: bool, others: list[Setting]) -> set[str]:
    """Arrivals, results, aborts and changes of the layout in a random order; the requests that were aborted."""
    numbers, coming, gone = world.numbers, list(enumerate(requests)), set()
    changes = list(others)
    for _ in range(100_000):
        sent = world.pump()
        step = numbers.random()
        running = [name for name in world.tokens if name not in world.ends and name not in gone]
        if coming and step < 0.4:
            number, (prompt, wish) = coming.pop(0)
            world.add(str(number), prompt, wish)
        elif aborts and running and step < 0.5:
            name = numbers.choice(running)
            gone.add(name)
            world.engine.abort(name)
        elif changes and step < 0.6:
            assert world.engine.detach() == []
            changes.pop().attach(world)
        elif not world.deliver() and not sent and not coming:
            assert not world.engine.busy, "requests wait and nothing is in flight"
            return gone
    raise AssertionError("no end")


def check(world: World, requests: list[tuple[list[int], SamplingParams]], gone: set[str]) -> None:
    reasons = {record.request: record for record in world.engine.finished}
    for record in reasons.values():
        assert len(record.gaps_ns) == max(0, record.output_tokens - 1)
        if record.first_token_ns is not None:
            assert record.arrived_ns <= record.first_token_ns
            assert record.first_token_ns + sum(record.gaps_ns) <= record.finished_ns
    for number, (prompt, wish) in enumerate(requests):
        name = str(number)
        tokens, why = continuation(prompt, wish, MAX_MODEL_LEN)
        if name in gone:
            assert world.tokens[name] == tokens[: len(world.tokens[name])]
            assert name not in world.ends
            assert reasons[name].finish_reason == "abort"
            continue
        assert world.tokens[name] == tokens
        assert world.ends[name].finish == why
        assert world.ends[name].stop_token == (tokens[-1] if tokens[-1] in wish.stop_token_ids and why == "stop" else None)
        assert (reasons[name].finish_reason, reasons[name].output_tokens) == (why, len(tokens))
        assert reasons[name].prompt_tokens == len(prompt)
    assert len(world.engine.finished) == len(requests)
    world.check_nothing_leaked()
    assert world.total("generated_tokens") == sum(map(len, world.tokens.values()))
    begun = [len(prompt) for number, (prompt, _) in enumerate(requests) if world.tokens[str(number)]]
    assert world.total("prompt_tokens") == sum(begun)
    assert world.total("finished") == len(requests) - len(gone)
    assert world.total("aborted") == len(gone)


@settings(max_examples=300, deadline=None)
@given(settings_of_engines(), REQUESTS, st.booleans(), st.integers(0, 2**32))
def test_every_request_gets_its_own_tokens(setting: Setting, requests: Any, aborts: bool, seed: int) -> None:
    world = World(random.Random(seed))
    setting.attach(world)
    check(world, requests, drive(world, requests, aborts, []))


@settings(max_examples=150, deadline=None)
@given(st.lists(settings_of_engines(), min_size=2, max_size=4), REQUESTS, st.booleans(), st.integers(0, 2**32))
def test_requests_outlive_a_change_of_the_layout(chain: list[Setting], requests: Any, aborts: bool, seed: int) -> None:
    world = World(random.Random(seed))
    chain[0].attach(world)
    check(world, requests, drive(world, requests, aborts, chain[1:]))


@settings(max_examples=40, deadline=None)
@given(settings_of_engines(), REQUESTS, st.integers(0, 2**32), st.integers(0, 30))
def test_a_failure_ends_every_request_with_its_cause(setting: Setting, requests: Any, seed: int, after: int) -> None:
    world = World(random.Random(seed))
    setting.attach(world)
    for number, (prompt, wish) in enumerate(requests):
        world.add(str(number), prompt, wish)
    for _ in range(after):
        world.pump()
        world.deliver()
    ended = world.engine.detach("rank 3 died")
    assert {out.request for out in ended} == set(world.tokens) - set(world.ends)
    assert all((out.finish, out.error, out.tokens) == ("error", "rank 3 died", []) for out in ended)
    assert not world.engine.busy
    assert not world.engine.in_flight
    # the next generation begins with nothing, and serves
    setting.attach(world)
    world.check_nothing_leaked()
    world.add("next", [1, 2, 3], SamplingParams(max_tokens=3, ignore_eos=True))
    world.run()
    assert len(world.tokens["next"]) == 3


def test_a_request_that_the_next_generation_cannot_hold_ends() -> None:
    """It may come while there are no ranks, or have begun under a longer context. Alone it would stop the queue for ever."""
    world = World(random.Random(0))
    wish = SamplingParams(max_tokens=2, ignore_eos=True)
    world.add("early", [1] * 30, wish)
    world.add("short", [1] * 3, wish)
    world.attach(Layout(), MAX_MODEL_LEN, 20)
    assert world.ends["early"].finish == "error"
    assert "30 tokens, the context 24" in (world.ends["early"].error or "")
    world.add("grown", [1] * 16, SamplingParams(max_tokens=None, ignore_eos=True))
    while len(world.tokens["grown"]) < 4:
        world.pump()
        world.deliver()
    world.engine.detach()
    world.attach(Layout(), 16, 20)
    assert world.ends["grown"].finish == "length"
    world.run()
    assert len(world.tokens["short"]) == 2
    world.check_nothing_leaked()


def test_replayed_is_who_has_room_again() -> None:
    world = World(random.Random(0))
    world.attach(Layout(), MAX_MODEL_LEN, 20)
    assert world.engine.replayed
    for name in ("first", "second"):
        world.add(name, [1] * 6, SamplingParams(max_tokens=12, ignore_eos=True))
    while not all(world.tokens.values()):
        world.pump()
        world.deliver()
    world.engine.detach()
    world.attach(Layout(), MAX_MODEL_LEN, 20, max_num_seqs=1)
    world.pump()
    assert not world.engine.replayed
    had = len(world.tokens["first"])
    while not world.engine.replayed:
        world.pump()
        world.deliver()
    assert len(world.tokens["first"]) == had + 1  # and the second waits for its row, as any new one would
    assert "first" not in world.ends
    world.run()
    assert [len(tokens) for tokens in world.tokens.values()] == [12, 12]


@pytest.mark.parametrize("prompt", [[], [1] * MAX_MODEL_LEN, [1] * 1000])
def test_an_impossible_prompt_is_refused_at_once(prompt: list[int]) -> None:
    world = World(random.Random(0))
    world.attach(Layout(), MAX_MODEL_LEN, 100)
    out = world.engine.add(Generate("a", prompt, SamplingParams()))
    assert out is not None
    assert out.finish == "error"
    assert not world.engine.busy
