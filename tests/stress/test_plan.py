"""When requests are due and what they ask: statistics of pure schedules, nobody waits."""

import random
import statistics
from dataclasses import replace
from itertools import islice, pairwise

import pytest

from runtime.stress.arrivals import OpenLoop
from runtime.stress.asked import asked
from runtime.stress.faults import Fault, parse_fault
from runtime.stress.goodput import Slo, parse_slo
from runtime.stress.lengths import parse_lengths
from runtime.stress.plan import ClosedLoop, Plan, asks, check
from runtime.stress.trace import BLOCK, parse_trace
from runtime.stress.values import BadPlan

MANY = 20_000


def gaps(loop: OpenLoop, seed: int = 1, duration_s: float | None = None) -> list[float]:
    times = list(islice(loop.times(random.Random(seed), duration_s), MANY))
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.mark.parametrize(
    ("loop", "variation"),
    [
        (OpenLoop(8.0), 1.0),
        (OpenLoop(8.0, "gamma", 0.25), 2.0),
        (OpenLoop(8.0, "gamma", 4.0), 0.5),
        (OpenLoop(8.0, "constant"), 0.0),
    ],
)
def test_gaps_have_the_rate_and_the_burstiness(loop: OpenLoop, variation: float):
    found = gaps(loop)
    assert statistics.mean(found) == pytest.approx(1 / 8, rel=0.05)
    assert statistics.stdev(found) / statistics.mean(found) == pytest.approx(variation, rel=0.05, abs=1e-6)


def test_a_constant_rate_begins_at_once_and_is_exact():
    assert list(islice(OpenLoop(4.0, "constant").times(random.Random(0), None), 4)) == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(("first", "last"), [(10.0, 30.0), (30.0, 10.0)])
def test_a_ramp_sends_its_mean_rate_and_grows_linearly(first: float, last: float):
    times = OpenLoop(first, "constant", ramp_to=last).times(random.Random(0), 100.0)
    due = list(islice(times, 3000))
    assert sum(at < 100 for at in due) == pytest.approx(2000, abs=1)
    halfway = (first + (first + last) / 2) / 2 * 50
    assert sum(at < 50 for at in due) == pytest.approx(halfway, abs=1)
    after = [at for at in due if at >= 100]
    assert after[1] - after[0] == pytest.approx(1 / last)


def test_the_same_seed_gives_the_same_requests_and_times_another_others():
    plan = Plan(OpenLoop(50.0), 2.0, input=parse_lengths("", "uniform:4,40"), output=parse_lengths("", "normal:8,2"), seed=7)
    assert list(asks(plan)) == list(asks(plan))
    assert list(asks(plan)) != list(asks(replace(plan, seed=8)))
    assert all(ask.at_s < 2 for ask in asks(plan))
    assert all(3 <= token <= 255 for ask in asks(plan) for token in ask.prompt)


def test_a_request_is_the_same_under_every_pattern():
    opened = asks(Plan(OpenLoop(5.0), None, requests=5, seed=3))
    closed = asks(Plan(ClosedLoop(2), None, requests=5, seed=3))
    assert [ask.prompt for ask in opened] == [ask.prompt for ask in closed]


def test_lengths_keep_to_their_bounds_and_mean():
    chance = random.Random(5)
    normal = parse_lengths("--input-tokens", "normal:512,128")
    drawn = [normal.draw(chance) for _ in range(5000)]
    assert statistics.mean(drawn) == pytest.approx(512, rel=0.02)
    assert statistics.stdev(drawn) == pytest.approx(128, rel=0.05)
    assert max(drawn) <= normal.largest == 896
    uniform = parse_lengths("--input-tokens", "uniform:3,5")
    assert {uniform.draw(chance) for _ in range(200)} == {3, 4, 5}


TRACE = """{"timestamp": 2500, "input_length": 700, "output_length": 8, "hash_ids": [1, 2]}
{"timestamp": 2000, "input_length": 600, "output_length": 4, "hash_ids": [1, 3]}

{"timestamp": 3000, "input_tokens": 20, "output_tokens": 2}
"""


def test_a_trace_is_played_in_order_with_shared_beginnings():
    plan = Plan(parse_trace(TRACE), None, seed=1)
    first, second, third = asks(plan)
    assert [ask.at_s for ask in (first, second, third)] == [0, 0.5, 1.0]
    assert [(len(ask.prompt), ask.output_tokens) for ask in (first, second, third)] == [(600, 4), (700, 8), (20, 2)]
    assert first.prompt[:BLOCK] == second.prompt[:BLOCK]
    assert first.prompt[BLOCK:] != second.prompt[BLOCK:600]
    assert len(list(asks(replace(plan, requests=2)))) == 2
    assert len(list(asks(replace(plan, duration_s=0.6)))) == 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"input_length": 1, "output_length": 1}', "timestamp is null"),
        ('{"timestamp": -1, "input_length": 1, "output_length": 1}', "timestamp is -1"),
        ('{"timestamp": 1, "input_length": 0, "output_length": 1}', "input_length is 0"),
        ('{"timestamp": 1, "input_length": 1, "output_length": "2"}', 'output_length is "2"'),
        ('{"timestamp": 1, "input_length": 1, "output_length": 2, "hash_ids": ["a"]}', "hash_ids"),
    ],
)
def test_a_bad_line_of_a_trace_is_named(line: str, says: str):
    good = '{"timestamp": 0, "input_length": 1, "output_length": 1}\n'
    with pytest.raises(BadPlan, match="line 2: ") as error:
        parse_trace(good + line, "f.jsonl")
    assert says in str(error.value)
    assert "f.jsonl" in str(error.value)


def test_faults_are_read():
    assert parse_fault("t=10 SIGSTOP rank=2 for=3") == Fault(10, "SIGSTOP", 2, 3)
    assert parse_fault("SIGKILL t=1.5 rank=0") == Fault(1.5, "SIGKILL", 0)


@pytest.mark.parametrize(
    "text",
    ["", "t=1 rank=0", "t=1 SIGTERM rank=0", "t=1 SIGSTOP rank=0", "t=1 SIGKILL rank=0 for=2", "t=-1 SIGKILL rank=0",
     "t=1 SIGKILL rank=-1", "t=1 SIGKILL rank=1.5", "t=1 t=2 SIGKILL rank=1", "t=1 SIGSTOP rank=1 for=0"],
)  # fmt: skip
def test_a_bad_fault_is_refused_with_one_that_works(text: str):
    with pytest.raises(BadPlan, match=r"--fault.*nearest that works"):
        parse_fault(text)


def test_an_slo_is_read():
    assert parse_slo("ttft=500, itl=30") == Slo(ttft=500, itl=30)


@pytest.mark.parametrize(
    "given",
    [
        {"rate": 0.0},
        {"rate": float("nan")},
        {"rate": 2.0, "concurrency": "3"},
        {"concurrency": "0"},
        {"concurrency": "1,x"},
        {"concurrency": "2", "burstiness": 2.0},
        {"arrivals": "pareto"},
        {"arrivals": "poisson", "burstiness": 2.0},
        {"ramp": 9.0, "requests": 10},
        {"duration": 0.0},
        {"requests": 0},
        {"warmup": 30.0},
        {"input_tokens": "many"},
        {"input_tokens": "uniform:9,3"},
        {"output_tokens": "normal:0,3"},
        {"slo": "ttft=0"},
        {"slo": "latency=3"},
        {"slo": "ttft"},
        {"fault": ["t=99 SIGKILL rank=0"]},
        {"trace": "/nowhere/at/all"},
    ],
)
def test_what_cannot_be_is_refused_with_what_can(given: dict):
    with pytest.raises(BadPlan, match=r"nearest that works: .+"):
        asked(given)


def test_flags_become_plans():
    assert asked({}).plan.pattern == OpenLoop(1.0)
    assert asked({"burstiness": 0.5}).plan.pattern == OpenLoop(1.0, "gamma", 0.5)
    assert asked({"concurrency": "4"}).steps is None
    assert asked({"concurrency": "4"}).plan.kind == "closed loop"
    assert asked({"concurrency": "1,8"}).steps == (1, 8)
    assert asked({"concurrency": "auto"}).steps == ()
    assert asked({"requests": 5}).plan.duration_s is None


def test_what_does_not_fit_the_context_is_refused():
    plan = Plan(ClosedLoop(1), 1.0, input=parse_lengths("", "200"), output=parse_lengths("", "100"))
    check(plan, 300)
    with pytest.raises(BadPlan, match="holds 256; nearest that works: --input-tokens 156"):
        check(plan, 256)
    with pytest.raises(BadPlan, match=r"line 1: 700 \+ 8 tokens.*nearest"):
        check(Plan(parse_trace(TRACE), None), 605)
