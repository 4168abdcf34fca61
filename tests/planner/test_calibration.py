"""Calibration: eight factors from few points, better predictions of the others, a file that comes back the same."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from asked import measured, request, setup

from runtime.planner.calibration import Calibration, Errors, calibrate, fit, load, save
from runtime.planner.measurements import Measurement, read_measurements
from runtime.planner.names import PlanError
from runtime.planner.parameters import SCALES, Scale
from runtime.planner.report import plan_lines
from runtime.planner.search import find_use_case, make_plan
from runtime.planner.serving import Workload
from runtime.planner.validation import score


def made(scale: Scale) -> list[Measurement]:
    """What a machine with these factors would measure."""
    found = []
    for tp in (1, 2, 4, 8):
        for concurrency in (1, 16, 128):
            for metric in ("tpot_ms", "ttft_ms"):
                s = setup("llama-3.1-8b", "h100", "bf16", tp=tp)
                point = Measurement("made", metric, 1.0, s, Workload(2000, 200, concurrency), 0)
                found.append(replace(point, value=point.predicted(scale)))
    return found


def test_it_finds_the_machine_that_made_the_measurements() -> None:
    points = made(Scale(memory=1.3, compute=0.8, kernel=2.0, latency=1.5))
    found = fit(points)
    assert found.memory == pytest.approx(1.3, rel=0.1)
    assert found.kernel > 1.2
    assert found.latency > 1.2
    assert score("", "", [(p.predicted(found), p.value) for p in points]).mape < 0.02
    assert fit(made(Scale())) == Scale()


def test_what_no_point_depends_on_stays_as_it_was() -> None:
    found = fit([p for p in made(Scale(memory=1.5)) if p.setup.sharding.tp == 1])
    assert (found.latency, found.link) == (pytest.approx(1), pytest.approx(1))


def test_eight_points_are_enough_for_the_others() -> None:
    """InferenceX's Llama-70B sets: the smallest and largest TP under the lightest and heaviest load, then all the rest."""
    rows, _ = read_measurements(measured("published_measurements.csv"))
    sets = defaultdict(list)
    for row in rows:
        if row.group == "InferenceX / NVIDIA silicon sample dense" and row.metric == "tpot_ms":
            sets[row.setup.engine.name, row.setup.gpu.name, row.precision].append(row)
    before, after = [], []
    for points in sets.values():
        tps, loads = {p.setup.sharding.tp for p in points}, {p.workload.concurrency or 0 for p in points}
        known = [
            p
            for p in points
            if p.setup.sharding.tp in (min(tps), max(tps)) and p.workload.concurrency in (min(loads), max(loads))
        ][:8]
        scale = fit(known)
        rest = [p for p in points if p not in known]
        before += [(p.predicted(), p.value) for p in rest]
        after += [(p.predicted(scale), p.value) for p in rest]
    assert len(sets) == 7
    assert len(after) == 130
    assert score("", "", after).mape <= 0.05 < score("", "", before).mape


def test_errors_are_those_of_points_that_the_fit_has_not_seen() -> None:
    points = made(Scale(memory=1.2))
    found = calibrate(points, "box")
    assert found.calibrated
    assert sum(errors.points for errors in found.errors.values()) == len(points) == 24
    assert found.band("tpot_ms") < 0.05 < found.band("tokens_s") == 0.25
    # one point that no other explains: the fit leans towards it, its error is that of a fit without it
    odd = replace(points[0], value=3 * points[0].value)
    worst = calibrate([odd, *points[1:]]).errors["tpot_ms"]
    assert worst.p50 < 0.15
    assert max(abs(odd.predicted(calibrate([odd, *points[1:]]).scale) / odd.value - 1), 0) > 0.3


def test_the_file_comes_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "box.json"
    device = {
        "memory_gib": 8,
        "bandwidth_gb_s": 20,
        "tflops": {"fp32": 0.1},
        "link": "shm",
        "measured": {"matmul": {"fp32": [0.9, 0.8]}},
    }
    before = Calibration("box", Scale(memory=1.2, queue=0.5), {"tpot_ms": Errors(0.02, 0.06, 9)})
    save(before, path, device=device)
    after = load(path)
    assert (after.machine, after.scale, after.errors) == (before.machine, before.scale, before.errors)
    assert after.device is not None
    assert after.device.measured["matmul"] == {"fp32": [0.9, 0.8]}
    assert [name for name in SCALES if getattr(after.scale, name) != 1] == ["memory", "queue"]


def test_a_plan_says_what_it_was_calibrated_on() -> None:
    known = Calibration("box", Scale(), {"tpot_ms": Errors(0.02, 0.06, 9)})
    plan = make_plan(request("llama-3.1-8b", gpus=1, calibration=known), find_use_case("batch"))
    assert "calibrated on box (+-6%)" in plan_lines(plan)[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "no calibration"), ('{"version": 9}', "version 9"), ('{"version": 1}', "no calibration"), ("[]", "no calibration")],
)
def test_a_file_that_is_none(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(PlanError, match=words):
        load(path)
