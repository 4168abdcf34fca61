"""Latency histograms of finished requests, under vLLM's names and with its buckets, so its dashboards read ours.

And the buckets of the durations of collectives, narrow enough for percentiles: each ends 2^(1/8) times higher than it starts.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping

from msgspec import Struct

from telemetry.records import RequestRecord
from telemetry.snapshot import HistogramView

_SHORT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560)
_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_WHOLE = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_DOUBLING = tuple(0.01 * 2**i for i in range(14))

BOUNDS: dict[str, tuple[float, ...]] = {
    "time_to_first_token_seconds": _SHORT,
    "inter_token_latency_seconds": _TOKEN,
    "request_time_per_output_token_seconds": _TOKEN,
    "e2e_request_latency_seconds": _WHOLE,
    "request_queue_time_seconds": _WHOLE,
    "request_prefill_time_seconds": _WHOLE,
    "request_decode_time_seconds": _WHOLE,
    "request_duration_seconds": _DOUBLING,  # OpenTelemetry's: the same latency in other buckets
}

_FINE = 1 << 9  # of an octave's parts, in which the eight edges of its buckets are rounded up
_EDGES = [math.ceil(_FINE * 2 ** (eighth / 8)) for eighth in range(8)]
_EIGHTH = [8] + [0] * (_FINE - 1) + [bisect_right(_EDGES, part) - 1 for part in range(_FINE, 2 * _FINE)]
DURATION_BUCKETS = 64 * 8  # as long as a 64-bit clock counts


def duration_bucket(ns: int) -> int:
    """The bucket of a duration, which is not negative: 8 log2(ns), rounded down, within a 500th; 0 for none."""
    length = ns.bit_length()
    return 8 * (length - 1) + _EIGHTH[(ns << 10) >> length]


def duration_bounds(bucket: int) -> tuple[float, float]:
    """Nanoseconds from which, and below which, durations fall into `bucket`; a number that is no bucket's means the nearest."""
    bucket = min(max(0, bucket), DURATION_BUCKETS - 1)
    return _start(bucket), _start(bucket + 1)


def bucket_percentile(counts: Mapping[int, int], q: float) -> float | None:
    """The q-th percentile (0 to 100) of durations counted by bucket, in ns, evenly spread within a bucket; `None` of nothing."""
    place = sum(counts.values()) * q / 100
    for bucket in sorted(counts):
        if 0 < place <= counts[bucket] or (place <= 0 < counts[bucket]):
            start, end = duration_bounds(bucket)
            return start + (end - start) * max(0.0, place) / counts[bucket]
        place -= counts[bucket]
    return None


def _start(bucket: int) -> float:
    octave, eighth = divmod(bucket, 8)
    return _EDGES[eighth] / _FINE * 2.0**octave


def time_to_first_token_s(request: RequestRecord) -> float | None:
    """First token - arrival."""
    return None if request.first_token_ns is None else _seconds(request.arrived_ns, request.first_token_ns)


def time_per_output_token_s(request: RequestRecord) -> float | None:
    """(Finish - first token) / (output tokens - 1): the mean gap between tokens, which is vLLM's TPOT."""
    if request.first_token_ns is None or request.output_tokens < 2:
        return None
    return _seconds(request.first_token_ns, request.finished_ns) / (request.output_tokens - 1)


class HistogramState(Struct, frozen=True, array_like=True):
    """One of `BOUNDS`, as far as it has come."""

    counts: list[int]
    sum: float


class Histograms:
    """All of `BOUNDS`, fed by request records; a phase that a request never reached is not observed."""

    def __init__(self) -> None:
        self._counts = {name: [0] * (len(bounds) + 1) for name, bounds in BOUNDS.items()}
        self._sums = dict.fromkeys(BOUNDS, 0.0)

    def observe(self, request: RequestRecord) -> None:
        """Count one finished request."""
        for name, seconds in _observations(request):
            if seconds is not None:
                self._counts[name][bisect_left(BOUNDS[name], seconds)] += 1
                self._sums[name] += seconds

    def view(self) -> dict[str, HistogramView]:
        """The state so far, by name."""
        return {name: HistogramView(BOUNDS[name], tuple(self._counts[name]), self._sums[name]) for name in BOUNDS}

    def state(self) -> dict[str, HistogramState]:
        return {name: HistogramState(list(self._counts[name]), self._sums[name]) for name in BOUNDS}

    def restore(self, state: Mapping[str, HistogramState]) -> None:
        """Become what `state` was taken of. Raises ValueError when its counts are of other buckets."""
        for name in BOUNDS.keys() & state.keys():
            if len(state[name].counts) != len(self._counts[name]):
                raise ValueError(f"counts of other buckets than {name}'s")
            self._counts[name], self._sums[name] = list(state[name].counts), state[name].sum


def _observations(request: RequestRecord) -> Iterator[tuple[str, float | None]]:
    arrived, scheduled, first, finished = request.arrived_ns, request.scheduled_ns, request.first_token_ns, request.finished_ns
    yield "time_to_first_token_seconds", time_to_first_token_s(request)
    yield "request_time_per_output_token_seconds", time_per_output_token_s(request)
    yield "e2e_request_latency_seconds", _seconds(arrived, finished)
    yield "request_duration_seconds", _seconds(arrived, finished)
    for gap_ns in request.gaps_ns:
        yield "inter_token_latency_seconds", gap_ns / 1e9
    if scheduled is not None:
        yield "request_queue_time_seconds", _seconds(arrived, scheduled)
        if first is not None:
            yield "request_prefill_time_seconds", _seconds(scheduled, first)
    if first is not None:
        yield "request_decode_time_seconds", _seconds(first, finished)


def _seconds(start_ns: int, end_ns: int) -> float:
    return max(0, end_ns - start_ns) / 1e9
