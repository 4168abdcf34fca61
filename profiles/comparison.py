"""Two runs beside each other: what differs in how they were made, and which measures got better, worse, or are noise.

Each measure has a 95 % confidence interval of its change, from other runs like A and like B (`profiles.sampled`, with a fixed
seed). The word beside it is given for all measures together (Bonferroni): two runs that differ in nothing get any word other
than noise at most once in twenty comparisons, not once in twenty measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy
from msgspec import Struct

from profiles.courses import Course, courses
from profiles.measures import MEASURES, Measure, Measured, measure
from profiles.provenance import Provenance
from profiles.reader import Profile
from profiles.sampled import TAIL, Redrawn, Samples

MATTERS = 0.01  # a smaller change (a share, or a percentage point) is noise, however surely it is there
FEWEST = {None: 5, 50.0: 20, 99.0: 400}  # samples that a mean or a percentile needs; fewer rarely reach beyond a p99
FEWEST_SECONDS = 5  # that they are of
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
    """`differences` are of provenance, `warnings` say what makes the figures doubtful, `courses` how the runs went."""

    a: str
    b: str
    differences: list[Difference]
    warnings: list[str]
    changes: list[Change]
    courses: list[Course] = []

    def regressions(self, beyond: float) -> list[Change]:
        """The measures that got worse by more than a share."""
        return [change for change in self.changes if change.regression > beyond]


def compare(a: Profile, b: Profile, progress: Callable[[float], None] | None = None) -> Comparison:
    """Read both and compare them. `progress` is told now and then how much is read, 0 to 1. Raises NotComparable."""
    told = progress or (lambda share: None)
    differences = list(_differences(a.provenance, b.provenance))
    if any(difference.field == "config_hash" for difference in differences):
        raise NotComparable("these are runs of different models (their config.json differ)")
    whole = max(1, a.size + b.size)
    measured = (
        measure(a, lambda share: told(share * a.size / whole)),
        measure(b, lambda share: told((a.size + share * b.size) / whole)),
    )
    for profile, run in zip((a, b), measured, strict=True):
        if run.busy_seconds < FEWEST_SECONDS:
            raise NotComparable(f"{profile.path}: {run.busy_seconds} s with work, {FEWEST_SECONDS} are the least to compare")
    warnings = [*_warnings(differences), *_doubts(a, measured[0]), *_doubts(b, measured[1]), *_load(*measured)]
    return Comparison(str(a.path), str(b.path), differences, warnings, changes(*measured), courses(*measured))


def changes(a: Measured, b: Measured) -> list[Change]:
    """Every measure that either run has, in `MEASURES`' order."""
    keys = [key for key in MEASURES if a.samples[key] or b.samples[key]]
    return [_change(MEASURES[key], a.samples[key], b.samples[key], len(keys)) for key in keys]


def _change(about: Measure, a: Samples, b: Samples, together: int) -> Change:
    """`together`: how many measures are judged at once."""
    value_a, value_b = a.value(about.percentile), b.value(about.percentile)
    change = Change(about.name, about.unit, value_a, value_b, about.points, None, None, None, NOISE)
    few = min(len(a), len(b)) < FEWEST[about.percentile]
    if few or value_a is None or value_b is None or (min(value_a, value_b) <= 0 and not about.points):
        return change
    redrawn = Redrawn(a), Redrawn(b)
    if min(run.units for run in redrawn) < FEWEST_SECONDS:
        return change
    scale, back = (_as_it_is, _as_it_is) if about.points else (_logarithm, _share)
    drawn_a, drawn_b = (scale(run.statistics(about.percentile, (SEED, which))) for which, run in enumerate(redrawn))
    middle = float(scale(numpy.float64(value_b)) - scale(numpy.float64(value_a)))
    edges = [float(edge) - middle for edge in numpy.percentile(drawn_b - drawn_a, [100 * TAIL, 100 * (1 - TAIL)])]

    def wider(tail: float) -> list[float]:
        return [float(back(middle + max(run.widening(tail) for run in redrawn) * edge)) for edge in edges]

    delta, (low, high), surely = float(back(middle)), wider(TAIL), wider(TAIL / together)
    return msgspec.structs.replace(change, delta=delta, low=low, high=high, verdict=_verdict(about, delta, *surely))


def _verdict(about: Measure, delta: float, low: float, high: float) -> str:
    if low * high <= 0 or abs(delta) < MATTERS * (100 if about.points else 1):
        return NOISE
    return BETTER if (delta > 0) == about.higher_is_better else WORSE


def _as_it_is(values: Any) -> Any:
    return values


def _logarithm(values: Any) -> Any:
    """In which a ratio is a difference, so that no interval holds a loss of more than everything."""
    return numpy.log(numpy.maximum(values, 1e-12))


def _share(logarithm: Any) -> Any:
    return numpy.expm1(numpy.clip(logarithm, -50, 50))


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
        ("requests running", _ratio(a.running, a.busy_seconds), _ratio(b.running, b.busy_seconds)),
    ):
        if abs(one - other) > _SIMILAR * max(one, other):
            yield f"the loads differ: {one:.3g} {what} in A, {other:.3g} in B"


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
