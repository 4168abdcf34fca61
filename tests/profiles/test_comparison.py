"""Two runs: the same is noise, a slowed one is worse, a different model is refused, CI gets its exit code."""

import random

import pytest
from profile_runs import Run

from profiles.comparison import BETTER, NOISE, WORSE, NotComparable, changes, compare
from profiles.measures import MEASURES, Measured, measure
from profiles.reader import Profile


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
    assert comparison.regressions(0.5) == []
    assert verdicts(compare(slow, fast))["throughput"] == BETTER


def test_other_models_are_refused_and_other_machines_are_said(fast, tmp_path):
    with pytest.raises(NotComparable, match="different models"):
        compare(fast, recorded(tmp_path, "model", Run(seconds=10), config_hash="abc"))
    other = compare(fast, recorded(tmp_path, "host", Run(seconds=10), host="other"))
    assert "host" in other.warnings[0]
    with pytest.raises(NotComparable, match="with work"):
        compare(fast, recorded(tmp_path, "short", Run(seconds=3)))


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Pairs of runs whose seconds resemble their neighbours, 5 % apart: the interval of the change must hold 5 %."""
    rng = random.Random(1)

    def run(mean):
        drift, samples = 0.0, []
        for _ in range(120):
            drift = 0.5 * drift + rng.gauss(0, 3)
            samples.append(mean + drift)
        measured = Measured(120.0)
        measured.samples["throughput"] = samples
        return measured

    inside = 0
    for _ in range(60):
        [change] = changes(run(100), run(105))
        inside += change.low <= 0.05 <= change.high
    assert inside >= 50


def test_figures_of_a_run(fast):
    run = measure(fast)
    summary = run.summary()
    assert summary["requests"] == 133  # one had begun before the recording
    assert summary["measures"].keys() == MEASURES.keys()
    assert run.value("throughput") == pytest.approx(40, rel=0.03)
    assert 30 < run.value("ttft_p50") < 50
    assert 8.5 < run.value("itl_p99") < 10.5
    assert run.value("bubble") == pytest.approx(100 - 51, abs=3)
    assert run.value("balance") == pytest.approx(87.5, abs=0.5)
    assert summary["events"] == {"info": 6}
