"""The buckets of durations: every duration lies between its bucket's bounds, and buckets are as narrow as they claim."""

from __future__ import annotations

import math
import random

import pytest

from telemetry.histograms import duration_bounds, duration_bucket


def durations() -> list[int]:
    numbers = random.Random(7)
    edges = [round(2 ** (b / 8)) + d for b in range(8, 504) for d in (-1, 0, 1)]
    return [*range(1, 3000), *edges, *(int(2 ** numbers.uniform(0, 63)) for _ in range(5000))]


def test_a_duration_lies_in_its_bucket() -> None:
    for ns in durations():
        low, high = duration_bounds(duration_bucket(ns))
        assert low <= ns < high, ns
    assert duration_bucket(0) == 0


def test_buckets_join_without_a_gap_and_have_one_width() -> None:
    for bucket in range(511):
        low, high = duration_bounds(bucket)
        assert duration_bounds(bucket + 1)[0] == high
        assert high / low == pytest.approx(2 ** (1 / 8), rel=0.005)
        assert math.log2(low) == pytest.approx(bucket / 8, abs=0.003)


def test_a_number_from_the_wire_that_is_no_bucket_means_the_nearest() -> None:
    assert duration_bounds(-5) == duration_bounds(0)
    assert duration_bounds(1 << 60) == duration_bounds(511)
