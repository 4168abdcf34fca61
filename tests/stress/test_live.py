"""What is shown while a load runs, against what is computed when it is over."""

import random

import pytest

from runtime.stress.goodput import Slo
from runtime.stress.live import Live, bucket, bucket_percentile
from runtime.stress.metrics import latencies
from runtime.stress.sample import INTERRUPTED, Sample
from telemetry.formulas import percentile


def load(seconds: int, rate: int = 20, slow_after: float = 1e9, live: Live | None = None) -> tuple[Live, list[Sample]]:
    """One answer of four tokens every 1/rate s, which takes 0.1 s, and ten times that in the end."""
    live = live or Live("made up", None, Slo(ttft=50))
    chance, samples, todo = random.Random(4), [], []
    for index in range(seconds * rate):
        at = index / rate
        each = chance.uniform(0.015, 0.035) * (10 if at >= slow_after else 1)
        sample = Sample(index, at, at + 0.001, 8, 4, [at + each * (1 + place) for place in range(4)], 4)
        sample.ended = sample.events[-1]
        samples.append(sample)
        todo += [(sample.sent, 0, live.sent, sample), (sample.ended, 2, live.ended, sample)]
        todo += [(event, 1, live.token, event) for event in sample.events]
    for _, _, tell, what in sorted(todo, key=lambda each: each[:2]):
        tell(what)
    return live, samples


def test_a_bucket_is_a_percent_wide():
    values = [random.Random(1).lognormvariate(3, 1.5) for _ in range(2000)]
    buckets: dict[int, int] = {}
    for value in values:
        buckets[bucket(value)] = buckets.get(bucket(value), 0) + 1
    for q in (0, 50, 90, 99, 100):
        assert bucket_percentile(buckets, q) == pytest.approx(percentile(values, q), rel=0.02)
    assert bucket_percentile({}, 50) is None


def test_the_whole_run_agrees_with_the_result():
    live, samples = load(30)
    now = live.progress(31.0, 0.1, ())
    run, exact = now.windows["run"], latencies(samples)
    assert (now.sent, now.done, now.errors, now.in_flight) == (600, 600, 0, 0)
    assert run.seconds == pytest.approx(31.0)
    assert run.output_tokens_per_s * run.seconds == pytest.approx(2400)
    for name, latency in exact.items():
        assert run.latency[name].count == latency.count
        for q in ("p50", "p90", "p99"):
            assert getattr(run.latency[name], q) == pytest.approx(getattr(latency, q), rel=0.03)
    assert sum(second.tokens for second in now.history) == 2400
    assert now.behind == ""


def test_a_window_forgets_what_it_has_passed():
    live, _ = load(80, slow_after=40)
    windows = live.progress(81.5, 0.1, ()).windows
    assert windows["10 s"].latency["ttft"].p50 > 150
    assert windows["10 s"].done_per_s == pytest.approx(20, rel=0.1)
    assert windows["10 s"].latency["ttft"].count < 230
    assert windows["60 s"].latency["ttft"].count < 1300
    assert windows["run"].latency["ttft"].count > 1550
    assert windows["10 s"].good == 0
    assert windows["run"].good == pytest.approx(800, abs=20)
    later = live.progress(200.0, 0.1, ()).windows
    assert later["10 s"].latency == later["60 s"].latency == {}
    assert later["10 s"].output_tokens_per_s == later["60 s"].output_tokens_per_s == 0
    assert later["run"].judged == 1600


def test_errors_count_and_what_we_cut_does_not():
    live = Live("made up", None, Slo(ttft=50))
    for index, error in enumerate(("timeout", INTERRUPTED, None)):
        sample = Sample(index, 0.0, 0.0, 8, 1, [0.02], 1, ended=0.5, error=error)
        live.sent(sample)
        live.ended(sample)
    now = live.progress(1.0, 0.1, ())
    assert (now.sent, now.done, now.errors, now.in_flight) == (3, 1, 1, 0)
    assert (now.windows["run"].good, now.windows["run"].judged) == (1, 2)


def test_a_generator_that_lags_is_told_of_at_once():
    live = Live("made up", None, None)
    for index in range(10):
        live.sent(Sample(index, 0.0, 0.3, 8, 1))
    assert "lag is 30" in live.progress(0.5, 0.1, ()).behind
    for tick in range(100):
        live.woke(0.6 + tick / 50, 0.05 if tick > 90 else 0.001)
    assert "answers up to 50" in live.progress(3.0, 0.1, ()).behind
    assert "95 % of a core" in Live("", None, None).progress(0.5, 0.95, ()).behind
