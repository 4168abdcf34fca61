"""How two runs went, beside each other: measures second by second, or token by token."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy
from msgspec import Struct

from profiles.measures import MEASURES, Measured
from profiles.sampled import Floats, Samples

Alignment = Literal["time", "tokens"]
ALIGNMENTS: tuple[Alignment, ...] = ("time", "tokens")
SHOWN = ("throughput", "step", "itl_p50", "bubble", "wait")  # of MEASURES, by the second or token
POINTS = 240  # of a course


class Course(Struct, frozen=True):
    """A measure over both runs. Point i of `POINTS` is its mean between i and i + 1 parts of `span`, which is that of the longer
    run: seconds since its first one with work, or output tokens since then. `None`: no sample, or the run is over."""

    measure: str
    unit: str
    align: Alignment
    span: float
    a: list[float | None]
    b: list[float | None]


class _Way(NamedTuple):
    """Of one run: its seconds that had work, and from where to where on the way each led."""

    seconds: Floats
    starts: Floats
    ends: Floats


def courses(a: Measured, b: Measured) -> list[Course]:
    """Of every measure shown that either run has, in both alignments."""
    found = []
    for align in ALIGNMENTS:
        ways = [_way(run.samples["throughput"], align) for run in (a, b)]
        span = max((float(end) for way in ways for end in way.ends[-1:]), default=0.0)
        for key in SHOWN if span > 0 else ():
            runs = [_points(run.samples[key], way, span) for run, way in zip((a, b), ways, strict=True)]
            if any(value is not None for points in runs for value in points):
                about = MEASURES[key]
                found.append(Course("ITL" if about.of == "token" else about.name, about.unit, align, span, *runs))
    return found


def _way(throughput: Samples, align: Alignment) -> _Way:
    """Throughput is known of every second with work."""
    seconds, rates = throughput.by_second()
    if align == "time":
        return _Way(seconds, seconds - seconds[:1], seconds - seconds[:1] + 1)
    ends = numpy.cumsum(rates)
    return _Way(seconds, ends - rates, ends)


def _points(samples: Samples, way: _Way, span: float) -> list[float | None]:
    seconds, means = samples.by_second()
    _, mine, theirs = numpy.intersect1d(seconds, way.seconds, assume_unique=True, return_indices=True)
    means, starts, ends = means[mine], way.starts[theirs] * POINTS / span, way.ends[theirs] * POINTS / span
    points: list[float | None] = []
    for point in range(POINTS):
        inside = numpy.maximum(0.0, numpy.minimum(ends, point + 1) - numpy.maximum(starts, point))
        points.append(float(f"{inside @ means / inside.sum():.5g}") if inside.any() else None)
    return points
