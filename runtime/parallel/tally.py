"""All calls of one collective in one size class between two moments: counted as they are made, cheaply."""

from __future__ import annotations

from runtime.rank.board import Op
from telemetry.histograms import DURATION_BUCKETS, duration_bucket


def size_class(size: int) -> int:
    """Class c holds messages of more than 2^(c-1) and at most 2^c bytes; an empty one is of class 0."""
    return (size - 1).bit_length() if size else 0


class Tally:
    """`first`: the number of the first call on its axis. Its histograms: calls by `telemetry.histograms.duration_bucket`."""

    __slots__ = ("bytes", "calls", "durations", "first", "op", "size_class", "transfer_ns", "wait_ns", "waits")

    def __init__(self, op: Op, first: int, size: int) -> None:
        self.op, self.first, self.size_class = op, first, size_class(size)
        self.calls = self.bytes = self.wait_ns = self.transfer_ns = 0
        self.waits = [0] * DURATION_BUCKETS
        self.durations = [0] * DURATION_BUCKETS

    def add(self, size: int, wait_ns: int, transfer_ns: int) -> None:
        """Count one call."""
        self.calls += 1
        self.bytes += size
        self.wait_ns += wait_ns
        self.transfer_ns += transfer_ns
        self.waits[duration_bucket(wait_ns)] += 1
        self.durations[duration_bucket(wait_ns + transfer_ns)] += 1


def by_bucket(counts: list[int]) -> dict[int, int]:
    """A histogram without its empty buckets."""
    return {bucket: count for bucket, count in enumerate(counts) if count}
