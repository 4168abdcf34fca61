"""Samples of a run, few enough to hold, each with the second it is of; and what they would have been in another run like it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from statistics import NormalDist

import numpy
from numpy.typing import NDArray

from telemetry.formulas import percentile

MOST = 20_000  # samples that are kept; of more, every n-th
RESAMPLES = 1000
TAIL = 0.025  # on either side of a 95 % interval
_BLOCKS = 4  # that a run is cut into at least
_HELD = 1_000_000  # numbers that are worked on at a time

Statistic = float | None  # a percentile (0 to 100); None: the mean
Floats = NDArray[numpy.float64]
Counts = NDArray[numpy.int64]


class Samples:
    """Values in any order of time. From twice `MOST` on every other one is let go, and so on: a run may last for days."""

    def __init__(self) -> None:
        self.seconds = array("q")
        self.values = array("d")
        self._every = 1
        self._passed = 0

    def __len__(self) -> int:
        return len(self.values)

    def add(self, second: int, *values: float) -> None:
        """Take what was measured in a second."""
        for value in values:
            self._passed += 1
            if self._passed >= self._every:
                self._passed = 0
                self.seconds.append(second)
                self.values.append(value)
                if len(self.values) >= 2 * MOST:
                    self.seconds, self.values = self.seconds[1::2], self.values[1::2]
                    self._every *= 2

    def by_second(self) -> tuple[Floats, Floats]:
        """(the seconds that have samples, in order; the mean of each)"""
        seconds, groups = numpy.unique(numpy.asarray(self.seconds), return_inverse=True)
        means: Floats = numpy.divide(numpy.bincount(groups, weights=numpy.asarray(self.values)), numpy.bincount(groups))
        return seconds.astype(numpy.float64), means

    def value(self, statistic: Statistic) -> float | None:
        """Their mean, or a percentile by linear interpolation; `None` of nothing."""
        if not self.values:
            return None
        return sum(self.values) / len(self.values) if statistic is None else percentile(self.values, statistic)


class Redrawn:
    """Other runs like one: put together anew from its blocks of neighbouring seconds.

    A circular block bootstrap (Politis and Romano, 1992) over the seconds that have samples. What falls into a second (a slow
    step, which all requests under way feel) is drawn together. Neighbouring seconds resemble each other, and single ones would
    promise too much: blocks are as long as the first autocorrelation asks for (Politis and White, 2004, for an AR(1) process).
    """

    def __init__(self, samples: Samples) -> None:
        """Of at least one sample."""
        values = numpy.asarray(samples.values)
        _, groups = numpy.unique(numpy.asarray(samples.seconds), return_inverse=True)
        order = numpy.argsort(values, kind="stable")
        self._values, self._groups = values[order], groups[order]
        self._sizes = numpy.bincount(groups)
        self._sums = numpy.bincount(groups, weights=values)
        self.units = len(self._sizes)  # seconds
        self.block = _block_length(self._sums / self._sizes)

    def statistics(self, statistic: Statistic, seed: Sequence[int]) -> Floats:
        """The statistic of each of `RESAMPLES` runs; the same seed draws the same seconds."""
        random = numpy.random.default_rng(seed)
        at_once = max(1, _HELD // max(self.units, len(self._values)))
        counts = (min(at_once, RESAMPLES - done) for done in range(0, RESAMPLES, at_once))
        return numpy.concatenate([self._statistic(statistic, self._draw(random, count)) for count in counts])

    def widening(self, tail: float = TAIL) -> float:
        """By how much an interval drawn with `TAIL` on either side must grow to leave out no more than `tail`, few as blocks are:
        Student's t over the normal's z, and the lost degree of freedom.

        t by the first terms of its expansion in 1/degrees (Abramowitz and Stegun 26.7.5).
        """
        blocks = self.units / self.block
        degrees = max(1.0, blocks - 1)
        z = NormalDist().inv_cdf(1 - tail)
        t = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        return t / NormalDist().inv_cdf(1 - TAIL) * math.sqrt(blocks / degrees)

    def _draw(self, random: numpy.random.Generator, runs: int) -> Counts:
        """How often each second (column) is in each run (row)."""
        starts = random.integers(0, self.units, (runs, -(-self.units // self.block)))
        seconds = ((starts[..., None] + numpy.arange(self.block)) % self.units).reshape(runs, -1)[:, : self.units]
        places = seconds + self.units * numpy.arange(runs)[:, None]
        return numpy.bincount(places.ravel(), minlength=runs * self.units).reshape(runs, self.units)

    def _statistic(self, statistic: Statistic, counts: Counts) -> Floats:
        if statistic is None:
            means: Floats = (counts @ self._sums) / (counts @ self._sizes)
            return means
        until = numpy.cumsum(counts[:, self._groups], axis=1)  # values, ordered, each as often as its second was drawn
        last = until[:, -1] - 1
        place = last * statistic / 100
        low = place.astype(numpy.int64)
        below = (until <= low[:, None]).sum(axis=1)
        above = (until <= numpy.minimum(low + 1, last)[:, None]).sum(axis=1)
        percentiles: Floats = self._values[below] + (self._values[above] - self._values[below]) * (place - low)
        return percentiles


def _block_length(means: Floats) -> int:
    """How many neighbouring seconds are drawn together; `means` by second."""
    units = len(means)
    apart = means - means.mean()
    scatter = float(apart @ apart)
    likeness = float(apart[1:] @ apart[:-1]) / scatter if scatter > 0 and units > 1 else 0.0
    likeness = min(0.95, max(0.0, likeness + (1 + 3 * likeness) / units))  # it is estimated too low by that
    wanted = math.cbrt(1.5 * units * (2 * likeness / (1 - likeness**2)) ** 2)
    return max(1, min(round(max(math.cbrt(units), wanted)), units // _BLOCKS))
