"""A run in figures: each measure second by second, or request by request, by the formulas that screens use.

Only seconds in which the deployment had work count, so that a run which was recorded a little longer is no slower for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from profiles.container import KEYFRAMES
from profiles.reader import Profile
from telemetry.codec import CodecError, decode_envelope, decode_keyframe
from telemetry.fold import Fold
from telemetry.formulas import balancedness, percentile
from telemetry.histograms import time_per_output_token_s, time_to_first_token_s
from telemetry.records import RequestRecord
from telemetry.series import SECOND
from telemetry.snapshot import DeploymentView, RankView

LATE = SECOND  # after the end of a second, everybody has told of it


class Measure(NamedTuple):
    """`of`: a second, or a request. `percentile` None: the mean. `points`: differences count as they are, not as a share."""

    name: str
    unit: str
    of: str
    formula: str
    higher_is_better: bool = False
    percentile: float | None = None
    points: bool = False


MEASURES = {
    "throughput": Measure("throughput", "tok/s", "second", "output tokens a second", higher_is_better=True),
    "ttft_p50": Measure("TTFT p50", "ms", "request", "first token - arrival", percentile=50),
    "ttft_p99": Measure("TTFT p99", "ms", "request", "first token - arrival", percentile=99),
    "itl_p50": Measure("ITL p50", "ms", "request", "(finish - first token) / (output tokens - 1)", percentile=50),
    "itl_p99": Measure("ITL p99", "ms", "request", "(finish - first token) / (output tokens - 1)", percentile=99),
    "step": Measure("step", "ms", "second", "median wall time of a step, mean over ranks"),
    "bubble": Measure("bubble", "%", "second", "idle share of time with work, mean over ranks", points=True),
    "wait": Measure(
        "wait", "%", "second", "wait for other ranks in collectives / wall time of steps, mean over ranks", points=True
    ),
    "transfer": Measure("transfer", "%", "second", "transfer in collectives / wall time of steps, mean over ranks", points=True),
    "memory": Measure("memory", "MiB", "second", "used by the fullest rank"),
    "balance": Measure(
        "balance",
        "%",
        "second",
        "mean / max over ranks: of tokens to experts, else of compute",
        higher_is_better=True,
        points=True,
    ),
}


@dataclass
class Measured:
    """The samples of one run, by the keys of `MEASURES`, in the order of time."""

    seconds: float  # recorded
    samples: dict[str, list[float]] = field(default_factory=lambda: {key: [] for key in MEASURES})
    busy_seconds: int = 0
    requests: int = 0
    prompt_tokens: int = 0  # of finished requests
    output_tokens: int = 0
    running: list[int] = field(default_factory=list)  # requests, by busy second
    lost: int = 0
    events: dict[str, int] = field(default_factory=dict)  # by severity

    def value(self, key: str) -> float | None:
        """The run's figure; `None` when there is none."""
        samples, measure = self.samples[key], MEASURES[key]
        if not samples:
            return None
        return sum(samples) / len(samples) if measure.percentile is None else percentile(samples, measure.percentile)

    def summary(self) -> dict[str, Any]:
        """JSON-ready; figures are in `MEASURES`' units."""
        return {
            "seconds": self.seconds,
            "busy_seconds": self.busy_seconds,
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "lost": self.lost,
            "events": self.events,
            "measures": {key: {"value": self.value(key), **_about(measure)} for key, measure in MEASURES.items()},
        }


def measure(profile: Profile) -> Measured:
    """Read the whole recording once."""
    measured = Measured(profile.seconds)
    fold = Fold(window_s=1.0)
    second = profile.start_ns // SECOND + 1  # the first whole one
    begun = False
    for entry in profile.entries():
        while entry.arrived_ns >= (second + 1) * SECOND + LATE:
            _take_second(measured, fold, (second + 1) * SECOND - 1)
            second += 1
        with suppress(CodecError, ValueError):
            if entry.topic != KEYFRAMES:
                envelope = decode_envelope(entry.data)
                fold.add(envelope, entry.arrived_ns)
                for record in envelope.records:
                    if isinstance(record, RequestRecord) and record.arrived_ns >= profile.start_ns:
                        _take_request(measured, record)
            elif not begun:
                fold = Fold.restored(msgspec.structs.replace(decode_keyframe(entry.data), window_s=1.0))
        begun = True
    last = fold.snapshot(profile.end_ns)
    measured.lost = last.lost
    for event in last.events:
        if event.time_ns >= profile.start_ns:
            measured.events[event.severity] = measured.events.get(event.severity, 0) + 1
    return measured


def _take_request(measured: Measured, record: RequestRecord) -> None:
    measured.requests += 1
    measured.prompt_tokens += record.prompt_tokens
    measured.output_tokens += record.output_tokens
    ttft, itl = time_to_first_token_s(record), time_per_output_token_s(record)
    for name, seconds in (("ttft", ttft), ("itl", itl)):
        if seconds is not None:
            measured.samples[f"{name}_p50"].append(1e3 * seconds)
            measured.samples[f"{name}_p99"].append(1e3 * seconds)


def _take_second(measured: Measured, fold: Fold, now_ns: int) -> None:
    for deployment in fold.snapshot(now_ns).deployments[:1]:
        engine = deployment.engine
        if engine.running or engine.waiting or engine.tokens_per_s:
            measured.busy_seconds += 1
            measured.running.append(engine.running)
            for key, value in _of_second(deployment):
                if value is not None:
                    measured.samples[key].append(value)


def _of_second(deployment: DeploymentView) -> Iterator[tuple[str, float | None]]:
    ranks = deployment.ranks
    yield "throughput", deployment.engine.tokens_per_s
    yield "step", _mean([rank.step_ms for rank in ranks])
    yield "bubble", _mean([rank.bubble_pct for rank in ranks])
    yield "wait", _mean([_share(rank, sum(axis.wait_ms for axis in rank.axes.values())) for rank in ranks])
    yield "transfer", _mean([_share(rank, sum(axis.transfer_ms for axis in rank.axes.values())) for rank in ranks])
    used = [rank.memory.used for rank in ranks if rank.memory.used is not None]
    yield "memory", max(used) / 2**20 if used else None
    loads = [float(sum(rank.expert_tokens)) for rank in ranks if rank.expert_tokens is not None]
    balanced = balancedness(loads or [rank.compute_ms for rank in ranks if rank.compute_ms is not None])
    yield "balance", None if balanced is None else 100 * balanced


def _share(rank: RankView, part_ms: float) -> float | None:
    """Percent of a step's wall time, which is the sum of its parts."""
    parts = (rank.compute_ms, rank.recv_wait_ms, rank.gap_ms)
    if None in parts:
        return None
    whole = sum(part or 0.0 for part in parts) + sum(axis.wait_ms + axis.transfer_ms for axis in rank.axes.values())
    return 100 * part_ms / whole if whole > 0 else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _about(measure: Measure) -> dict[str, Any]:
    return {"unit": measure.unit, "formula": measure.formula, "higher_is_better": measure.higher_is_better}
