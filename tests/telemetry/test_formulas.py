"""Formulas against their sources' own numbers."""

import pytest

from telemetry import formulas


@pytest.mark.parametrize(("q", "expected"), [(0, 1), (50, 2.5), (75, 3.25), (100, 4)])
def test_percentile_interpolates_as_numpy_does(q, expected):
    assert formulas.percentile([4, 1, 3, 2], q) == expected


def test_percentile_of_nothing_is_unavailable():
    assert formulas.percentile([], 50) is None


def test_bus_bandwidth_factors():
    assert formulas.bus_factor("all_reduce", 8) == 1.75
    assert formulas.bus_factor("all_to_all", 4) == 0.75
    assert formulas.bus_factor("send", 2) == 1
    assert formulas.bus_bandwidth("all_reduce", 1e9, 0.01, 4) == pytest.approx(1.5e11)
    with pytest.raises(ValueError, match="shout"):
        formulas.bus_factor("shout", 2)


def test_the_last_to_arrive_does_not_wait():
    assert formulas.split_collective([5.0, 2.0, 9.0]) == (2.0, [3.0, 0.0, 7.0])


def test_bubbles():
    assert formulas.bubble_fill_drain(4, 4) == pytest.approx(3 / 7)
    assert formulas.bubble_steady_decode(4, 1) == 0.75
    assert formulas.bubble_steady_decode(4, 8) == 0
    assert formulas.bubble_steady_decode(2, 8, [1, 3]) == pytest.approx(1 - 2 / 3)


def test_balance_and_utilization():
    assert formulas.balancedness([2, 2, 4, 0]) == 0.5
    assert formulas.balancedness([0, 0]) is None
    assert formulas.model_flops_utilization(1e15, 1, 1e15, devices=2) == 0.5
    assert formulas.model_bandwidth_utilization(1e9, 0.01, 2e11) == 0.5
