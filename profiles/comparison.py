"""Two runs beside each other: what differs in how they were made, and which measures got better, worse, or are noise.

Each measure has a 95 % confidence interval of its change from a moving-block bootstrap: blocks of neighbouring samples (seconds,
or requests) are drawn again with a fixed seed, because neighbours resemble each other and single ones would promise too much.
It is widened for the number of blocks, as Student's t is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy
from msgspec import Struct
from numpy.typing import NDArray

from profiles.measures import MEASURES, Measure, Measured, measure
from profiles.provenance import Provenance
from profiles.reader import Profile

RESAMPLES = 1000
CONFIDENCE = 95.0  # percent
MATTERS = 0.01  # a smaller change (a share, or a percentage point) is noise, however surely it is there
FEWEST = {None: 5, 50.0: 20, 99.0: 100}  # samples that a mean or a percentile needs
MOST = 20_000  # samples that are resampled; of more, every n-th
SEED = 20240501
BETTER, WORSE, NOISE = "better", "worse", "noise"

_ABOUT_THE_RECORDING = {"wall_ns", "monotonic_ns", "argv", "deployment", "window_s"}
_LIKE_RUNS = ("host", "cpu", "devices", "device", "dtype", "emulated")
_SIMILAR = 0.2  # of the load: how far apart two runs' may be


class NotComparable(Exception):
    """The two recordings say nothing about each other; the message says why."""


class Difference(Struct, frozen=True):
    """What two provenances say otherwise."""

    field: str
    a: Any
    b: Any


class Change(Struct, frozen=True):
    """One measure from A to B. `delta`, `low` and `high` are shares of A's value, or differences when `points`; `None`: too few
    samples to say."""

    measure: str
    unit: str
    a: float | None
    b: float | None
    points: bool
    delta: float | None
    low: float | None
    high: float | None
    verdict: str

    @property
    def regression(self) -> float:
        """By how much it got worse, as a share (a point is 0.01); 0 when it did not."""
        if self.verdict != WORSE or self.delta is None:
            return 0.0
        return abs(self.delta) / 100 if self.points else abs(self.delta)


class Comparison(Struct, frozen=True):
    """`differences` are of provenance, `warnings` say what makes the figures doubtful."""

    a: str
    b: str
    differences: list[Difference]
    warnings: list[str]
    changes: list[Change]

    def regressions(self, beyond: float) -> list[Change]:
        """The measures that got worse by more than a share."""
        return [change for change in self.changes if change.regression > beyond]


def compare(a: Profile, b: Profile) -> Comparison:
    """Read both and compare them. Raises NotComparable."""
    differences = list(_differences(a.provenance, b.provenance))
    if any(difference.field == "config_hash" for difference in differences):
        raise NotComparable("these are runs of different models (their config.json differ)")
    measured = measure(a), measure(b)
    for profile, run in zip((a, b), measured, strict=True):
        if run.busy_seconds < FEWEST[None]:
            raise NotComparable(f"{profile.path}: {run.busy_seconds} s with work, {FEWEST[None]} are the least to compare")
    warnings = [*_warnings(differences), *_doubts(a, measured[0]), *_doubts(b, measured[1]), *_load(*measured)]
    return Comparison(str(a.path), str(b.path), differences, warnings, changes(*measured))


def changes(a: Measured, b: Measured) -> list[Change]:
    """Every measure that either run has, in `MEASURES`' order."""
    keys = [key for key in MEASURES if a.samples[key] or b.samples[key]]
    return [_change(MEASURES[key], a.value(key), b.value(key), a.samples[key], b.samples[key]) for key in keys]


def _change(about: Measure, a: float | None, b: float | None, samples_a: list[float], samples_b: list[float]) -> Change:
    few = min(len(samples_a), len(samples_b)) < FEWEST[about.percentile]
    if a is None or b is None or few or (a == 0 and not about.points):
        return Change(about.name, about.unit, a, b, about.points, None, None, None, NOISE)
    delta = b - a if about.points else b / a - 1
    drawn_a, drawn_b = _drawn(samples_a, about.percentile), _drawn(samples_b, about.percentile)
    drawn_a = drawn_a[::-1]  # the same numbers drew both: turned round, equal samples do not rise and fall together
    drawn = drawn_b - drawn_a if about.points else drawn_b / numpy.where(drawn_a == 0, a, drawn_a) - 1
    edges = numpy.percentile(drawn, [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2])
    wider = _widening(min(len(samples_a), len(samples_b)))
    low, high = (delta + wider * (float(edge) - delta) for edge in edges)
    verdict = NOISE
    if low * high > 0 and abs(delta) >= MATTERS * (100 if about.points else 1):
        verdict = BETTER if (delta > 0) == about.higher_is_better else WORSE
    return Change(about.name, about.unit, a, b, about.points, delta, low, high, verdict)


def _drawn(samples: list[float], percentile: float | None) -> NDArray[numpy.float64]:
    """The statistic of each of `RESAMPLES` runs put together anew from blocks of this one's samples."""
    values = numpy.asarray(samples[:: -(-len(samples) // MOST)], dtype=numpy.float64)
    block = _block(len(values))
    count = -(-len(values) // block)
    random = numpy.random.default_rng(SEED)
    statistics = numpy.empty(RESAMPLES)
    for number in range(RESAMPLES):
        starts = random.integers(0, len(values) - block + 1, count)
        drawn = values[(starts[:, None] + numpy.arange(block)).ravel()[: len(values)]]
        statistics[number] = drawn.mean() if percentile is None else numpy.percentile(drawn, percentile)
    return statistics


def _block(samples: int) -> int:
    """How many neighbours are drawn together: enough that two blocks hardly know of each other, and four blocks at least."""
    return max(1, min(round(2 * math.cbrt(samples)), samples // 4))


def _widening(samples: int) -> float:
    """What drawing from few blocks leaves out of an interval: Student's t over the normal's z, and the lost degree of freedom.

    t by the first terms of its expansion in 1/degrees (Abramowitz and Stegun 26.7.5), for two-sided 95 %.
    """
    samples = min(samples, MOST)
    blocks = samples / _block(samples)
    z, degrees = 1.96, max(1.0, blocks - 1)
    t = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    return t / z * math.sqrt(blocks / degrees)


def _differences(a: Provenance | None, b: Provenance | None) -> Iterator[Difference]:
    if a is None or b is None:
        return
    before, after = _flat(a), _flat(b)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield Difference(name, before.get(name), after.get(name))


def _flat(provenance: Provenance) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(provenance).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name not in _ABOUT_THE_RECORDING:
            flat[name] = value
    return flat


def _warnings(differences: list[Difference]) -> Iterator[str]:
    unlike = [difference.field for difference in differences if difference.field in _LIKE_RUNS]
    if unlike:
        yield f"the runs were made on different machines or in different number formats: {', '.join(unlike)} differ"


def _doubts(profile: Profile, run: Measured) -> Iterator[str]:
    name = profile.path.name
    if profile.provenance is None:
        yield f"{name}: where it comes from is lost"
    if not profile.complete:
        yield f"{name}: the recording has no end"
    if profile.damaged:
        yield f"{name}: {profile.damaged} chunks are damaged and left out"
    if run.lost:
        yield f"{name}: {run.lost} telemetry messages were lost"
    if profile.provenance is not None and profile.provenance.emulated:
        yield f"{name}: several ranks shared a device"


def _load(a: Measured, b: Measured) -> Iterator[str]:
    for what, one, other in (
        ("prompt tokens of a request", _ratio(a.prompt_tokens, a.requests), _ratio(b.prompt_tokens, b.requests)),
        ("output tokens of a request", _ratio(a.output_tokens, a.requests), _ratio(b.output_tokens, b.requests)),
        ("requests running", _ratio(sum(a.running), len(a.running)), _ratio(sum(b.running), len(b.running))),
    ):
        if abs(one - other) > _SIMILAR * max(one, other):
            yield f"the loads differ: {one:.3g} {what} in A, {other:.3g} in B"


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else 0.0
