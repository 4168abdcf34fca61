"""Two runs: the same is noise, a slowed one is worse, a different model is refused, CI gets its exit code."""

import numpy
import pytest
from profile_runs import Run, S

from profiles.comparison import BETTER, NOISE, WORSE, NotComparable, changes, compare
from profiles.measures import MEASURES, Measured, measure
from profiles.reader import Profile
from profiles.sampled import MOST, Redrawn, Samples
from telemetry.records import StepRecord


def recorded(tmp_path, name, run, **fields):
    path = tmp_path / f"{name}.mcap"
    run.record(path, **fields)
    return Profile(path)


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("fast"), "fast", Run(seconds=40))


def verdicts(comparison):
    return {change.measure: change.verdict for change in comparison.changes}


def test_a_run_and_itself_are_noise(fast):
    comparison = compare(fast, fast)
    assert set(verdicts(comparison).values()) == {NOISE}
    assert (comparison.differences, comparison.warnings) == ([], [])
    assert all(change.low <= 0 <= change.high for change in comparison.changes if change.delta is not None)


def test_another_run_of_the_same_is_noise(fast, tmp_path):
    assert set(verdicts(compare(fast, recorded(tmp_path, "again", Run(seconds=40, seed=2)))).values()) == {NOISE}


def test_a_slowed_run_is_worse_and_back_again_better(fast, tmp_path):
    slow = recorded(tmp_path, "slow", Run(seconds=40, slow=1.3, seed=3), settings={"delay": 3})
    comparison = compare(fast, slow)
    found = verdicts(comparison)
    assert {name for name, verdict in found.items() if verdict == WORSE} >= {"throughput", "TTFT p50", "ITL p50", "step"}
    assert [(d.field, d.a, d.b) for d in comparison.differences] == [("settings.delay", None, 3)]
    step = next(change for change in comparison.changes if change.measure == "step")
    assert step.low < step.delta < step.high
    assert step.delta == pytest.approx(0.3 * 42.5 / 51, abs=0.05)
    assert {change.measure for change in comparison.regressions(0.05)} >= {"throughput", "step"}
    mbu = next(change for change in comparison.changes if change.measure == "MBU")
    assert (mbu.unit, mbu.a) == ("%", pytest.approx(100 * 20e6 / 0.1 / 1e9, rel=0.02)), "20 MB each tenth of a second, of 1 GB/s"
    assert comparison.regressions(0.5) == []
    assert verdicts(compare(slow, fast))["throughput"] == BETTER


def test_other_models_are_refused_and_other_machines_are_said(fast, tmp_path):
    with pytest.raises(NotComparable, match="different models"):
        compare(fast, recorded(tmp_path, "model", Run(seconds=10), config_hash="abc"))
    other = compare(fast, recorded(tmp_path, "host", Run(seconds=10), host="other"))
    assert "host" in other.warnings[0]
    with pytest.raises(NotComparable, match="with work"):
        compare(fast, recorded(tmp_path, "short", Run(seconds=3)))


TRIALS = 200


def run_of(rng, mean, seconds, per_second=None):
    """A measure of a run whose seconds resemble their neighbours: one sample each, or as many as requests that came by chance."""
    drift, samples = 0.0, Samples()
    for second in range(seconds):
        drift = 0.6 * drift + rng.normal(0, 6.4)
        each = [mean + drift] if per_second is None else (mean + drift) * rng.lognormal(0, 0.25, rng.poisson(per_second))
        samples.add(second, *each)
    return samples


@pytest.mark.parametrize(
    ("key", "seconds", "per_second"),
    [
        ("throughput", 12, None),
        ("throughput", 40, None),
        ("bubble", 120, None),
        ("ttft_p50", 60, 2),
        ("itl_p99", 60, 15),
        ("ttft_p99", 200, 3),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(key, seconds, per_second):
    """200 pairs of runs, B 5 % above A: the 95 % interval holds these 5 % in 90 to 99 % of them."""
    inside, truth = 0, 5.0 if MEASURES[key].points else 0.05
    for trial in range(TRIALS):
        rng = numpy.random.default_rng((7, trial))
        change = change_of(key, run_of(rng, 100, seconds, per_second), run_of(rng, 105, seconds, per_second))
        inside += change.low <= truth <= change.high
    assert 0.90 <= inside / TRIALS <= 0.995


def change_of(key, a, b):
    run_a, run_b = Measured(60.0), Measured(60.0)
    run_a.samples[key], run_b.samples[key] = a, b
    [change] = changes(run_a, run_b)
    return change


def whole_run(rng, slower):
    """Every measure at once, each with noise of its own; `slower` than 1 is a regression of all."""
    run = Measured(60.0)
    for key, about in MEASURES.items():
        factor = 1 / slower if about.higher_is_better else slower
        run.samples[key] = run_of(rng, 100 * factor, 60, {"second": None, "request": 8, "token": 12}[about.of])
    return run


def test_noise_is_noise_in_all_measures_together():
    """All measures of runs that differ in nothing: a word other than noise in at most one of twenty comparisons."""
    spoke = 0
    for trial in range(40):
        rng = numpy.random.default_rng((8, trial))
        spoke += any(change.verdict != NOISE for change in changes(whole_run(rng, 1.0), whole_run(rng, 1.0)))
    assert spoke <= 5  # 2 expected; more than 5 once in sixty


def test_a_regression_is_found_in_every_measure():
    rng = numpy.random.default_rng(9)
    assert {change.verdict for change in changes(whole_run(rng, 1.0), whole_run(rng, 1.5))} == {WORSE}
    assert {change.verdict for change in changes(whole_run(rng, 1.5), whole_run(rng, 1.0))} == {BETTER}


def test_one_run_without_spread_and_few_samples():
    even = Samples()
    even.add(0, 3.0)
    assert change_of("step", even, even).low is None  # one second says nothing of other seconds
    for second in range(1, 60):
        even.add(second, 3.0)
    change = change_of("step", even, even)
    assert (change.delta, change.low, change.high, change.verdict) == (0.0, 0.0, 0.0, NOISE)


def test_samples_of_days_take_little_and_keep_their_shape():
    rng = numpy.random.default_rng(10)
    values = rng.lognormal(0, 0.5, 500_000)
    samples = Samples()
    for second in range(5000):
        samples.add(second, *values[100 * second : 100 * second + 100])
    assert MOST <= len(samples) <= 2 * MOST
    assert len(set(samples.seconds)) == 5000
    for percentile in (50.0, 99.0):
        assert samples.value(percentile) == pytest.approx(numpy.percentile(values, percentile), rel=0.03)
    assert samples.value(None) == pytest.approx(values.mean(), rel=0.01)


def test_a_statistic_of_a_run_drawn_again_is_what_numpy_says():
    """Every second drawn once is the run itself."""
    rng = numpy.random.default_rng(11)
    samples = run_of(rng, 100, 40, 5)
    redrawn = Redrawn(samples)
    once = numpy.ones((1, redrawn.units), dtype=int)
    for percentile in (0.0, 37.0, 50.0, 99.0, 100.0):
        assert redrawn._statistic(percentile, once)[0] == pytest.approx(numpy.percentile(samples.values, percentile))
    assert redrawn._statistic(None, once)[0] == pytest.approx(numpy.mean(samples.values))


def test_a_recording_is_read_piece_by_piece(fast):
    shares = []
    compare(fast, fast, shares.append)
    assert len(shares) > 60
    assert shares == sorted(shares)
    assert shares[-1] <= 1.0


def test_figures_of_a_run(fast):
    run = measure(fast)
    summary = run.summary()
    assert summary["requests"] == 133  # one had begun before the recording
    assert summary["measures"].keys() == MEASURES.keys()
    assert run.value("throughput") == pytest.approx(40, rel=0.03)
    assert 30 < run.value("ttft_p50") < 50
    assert 8.5 < run.value("itl_p50") < 10.5
    assert 10 < run.value("itl_p99") < 11.5  # every other gap is 2 ms longer than the one before
    assert run.value("bubble") == pytest.approx(100 - 51, abs=3)
    assert run.value("balance") > 95  # of a dense model: both ranks compute as long
    assert summary["events"] == {"info": 6}
    steps = [record for _, envelope in Run(seconds=40) for record in envelope.records if isinstance(record, StepRecord)]
    whole = 40 * 2 * S  # two ranks that have work all the time
    for part in ("wait", "transfer"):
        assert run.value(part) == pytest.approx(100 * sum(getattr(s.axes["tp"], f"{part}_ns") for s in steps) / whole, rel=0.1)


def test_balance_of_a_mixture_of_experts_is_of_its_tokens(moe_file):
    """Rank 0's experts take 82 tokens a second and layer each on average, rank 1's 42."""
    with Profile(moe_file) as profile:
        assert measure(profile).value("balance") == pytest.approx(100 * (82 + 42) / 2 / 82, abs=1)
