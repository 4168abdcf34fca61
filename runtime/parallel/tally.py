"""All calls of one collective in one size class between two moments: noted as they are made, cheaply, and counted afterwards."""

from __future__ import annotations

from array import array

import numpy as np

from runtime.rank.board import Op
from telemetry.histograms import duration_bucket

_OCTAVE = np.array([duration_bucket(ns) for ns in range(512, 1024)]) - duration_bucket(512)  # in a 512th of which a duration ends
_LONGEST = 1 << 52  # nanoseconds, 52 days: as long as a float counts them all


def size_class(size: int) -> int:
    """Class c holds messages of more than 2^(c-1) and at most 2^c bytes; an empty one is of class 0."""
    return (size - 1).bit_length() if size else 0


class Tally:
    """`first`: the number of the first call on its axis. `waits` and `transfers`: nanoseconds of each."""

    __slots__ = ("bytes", "first", "op", "size_class", "transfers", "waits")

    def __init__(self, op: Op, first: int, size: int) -> None:
        self.op, self.first, self.size_class = op, first, size_class(size)
        self.bytes = 0
        self.waits, self.transfers = array("q"), array("q")

    def add(self, size: int, wait_ns: int, transfer_ns: int) -> None:
        """Note one call."""
        self.bytes += size
        self.waits.append(wait_ns)
        self.transfers.append(transfer_ns)


def by_bucket(durations: np.ndarray) -> dict[int, int]:
    """int64 [n], nanoseconds -> how many fall into each `telemetry.histograms.duration_bucket` that any falls into."""
    durations = np.minimum(durations, _LONGEST)
    bits = np.frexp(durations)[1]
    buckets = np.where(durations > 0, 8 * (bits - 1) + _OCTAVE[(durations << 10 >> bits) & 511], 0)
    counts = np.bincount(buckets)
    return {int(bucket): int(counts[bucket]) for bucket in counts.nonzero()[0]}
