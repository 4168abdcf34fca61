"""Figures from samples made by hand: every one has an exact value."""

import math
from dataclasses import replace

import pytest

from runtime.stress.goodput import Slo, wilson
from runtime.stress.metrics import count_requests, errors_by_kind, goodput, judge_generator, latencies, timeline, tokens_between
from runtime.stress.sample import INTERRUPTED, Sample


def sample(intended: float, *events: float, lag: float = 0.0, tokens: int | None = None, error: str | None = None) -> Sample:
    count = len(events) if tokens is None else tokens
    ended = events[-1] if events else intended
    return Sample(0, intended, intended + lag, 8, 4, list(events), count, ended=ended, error=error)


def test_each_latency_by_its_formula():
    found = latencies([sample(1.0, 1.1, 1.12, 1.15, 1.2, lag=0.05)])
    assert found["ttft"].p50 == pytest.approx(100), "from the intended send, not from the actual one"
    assert found["e2e"].p50 == pytest.approx(200)
    assert found["tpot"].p50 == pytest.approx(100 / 3)
    assert found["itl"].count == 3
    assert found["itl"].p50 == pytest.approx(30)
    assert found["itl"].quantiles == pytest.approx([20 + min(q, 50) * 0.2 + max(0, q - 50) * 0.4 for q in range(0, 101, 5)])


def test_percentiles_are_interpolated_over_whole_answers_alone():
    fine = [sample(0.0, ttft / 1000) for ttft in range(1, 101)]
    found = latencies([*fine, sample(0.0, 9.0, error="timeout")])
    assert (found["ttft"].p50, found["ttft"].p90, found["ttft"].p99) == pytest.approx((50.5, 90.1, 99.01))
    assert "itl" not in found
    assert "tpot" not in found


def test_an_event_may_hold_several_tokens():
    assert sample(0.0, 0.1, 0.3, tokens=5).tpot_s == pytest.approx(0.05)
    assert tokens_between([sample(0.0, 0.1, 0.3, tokens=5)], 0.2, 1.0) == 2.5


def test_the_warm_up_is_counted_apart():
    samples = [sample(0.0, 0.2), sample(1.0, 1.2, 1.3), sample(2.0, error="429 overloaded"), sample(3.0, 3.1, error=INTERRUPTED)]
    found = count_requests(samples, 1.0)
    assert (found.sent, found.warmup, found.measured) == (4, 1, 3)
    assert (found.ok, found.errors, found.interrupted, found.short) == (1, 1, 1, 1)
    assert errors_by_kind(samples) == {"429 overloaded": 1}
    assert tokens_between(samples, 1.0, 5.0) == 2


def test_goodput_has_errors_in_its_denominator_and_not_what_we_interrupted():
    fast, slow = sample(0.0, 0.1, 0.12), sample(0.0, 0.6, 0.62)
    broken = sample(0.0, error="timeout")
    samples = [fast, fast, slow, broken, sample(0.0, 0.1, error=INTERRUPTED)]
    found = goodput(samples, Slo(ttft=500), 4.0)
    assert found is not None
    assert (found.good, found.requests_per_s, found.fraction) == (2, 0.5, 0.5)
    assert goodput(samples, Slo(ttft=500, itl=10), 4.0).good == 0
    assert goodput(samples, Slo(tpot=20.001, e2e=121), 4.0).good == 2
    assert goodput([], Slo(ttft=1), 0.0).fraction is None
    assert goodput(samples, None, 4.0) is None


def test_wilson():
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 0) is None


def test_a_generator_that_falls_behind_is_flagged():
    steady = [sample(i, i + 0.05, lag=0.002) for i in range(100)]
    assert not judge_generator(steady, 0.3).behind
    late = [replace_lag(each, 0.03) if i >= 90 else each for i, each in enumerate(steady)]
    found = judge_generator(late, 0.3)
    assert found.behind
    assert "30.0 ms" in found.why
    assert (found.lag_ms_p50, found.lag_ms_p99) == pytest.approx((2, 30))
    slow_server = [sample(i, i + 2.0, lag=0.03) for i in range(100)]
    assert not judge_generator(slow_server, 0.3).behind, "30 ms are nothing beside 2 s"
    assert judge_generator(steady, 0.95).behind
    assert not judge_generator([], 0.0).behind
    deaf = judge_generator(steady, 0.3, [0.001] * 90 + [0.04] * 10)
    assert "saw answers up to 40.0 ms late" in deaf.why
    assert not judge_generator(slow_server, 0.3, [0.04]).behind


def replace_lag(each: Sample, lag: float) -> Sample:
    return replace(each, sent=each.intended + lag)


def test_the_timeline_by_seconds():
    rows = timeline([sample(0.2, 0.5, 1.5), sample(1.1, 1.3), sample(1.2, error="timeout")], 1.5)
    assert [(row.sent, row.done, row.errors, row.in_flight, row.tokens) for row in rows] == [(1, 0, 0, 1, 1), (2, 2, 1, 0, 2)]
    assert rows[0].ttft_ms_p50 is None
    assert math.isclose(rows[1].ttft_ms_p50, 250)
    assert timeline([], 0.0) == ()
