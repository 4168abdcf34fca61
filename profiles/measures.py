"""A run in figures: each measure by the second, by the request or by the token, by the formulas that screens use.

Only seconds in which the deployment had work count, so that a run which was recorded a little longer is no slower for it. The
recording is read once, and little of it is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from operator import add
from typing import Any, NamedTuple

import msgspec

from profiles.container import KEYFRAMES
from profiles.reader import Profile
from profiles.sampled import Samples
from telemetry.codec import CodecError, decode_envelope, decode_keyframe
from telemetry.diagnosis.figures import expert_balance
from telemetry.fold import Fold
from telemetry.formulas import balancedness
from telemetry.histograms import time_to_first_token_s
from telemetry.records import RequestRecord
from telemetry.series import SECOND
from telemetry.snapshot import DeploymentView, ExpertsView

LATE = SECOND  # after the end of a second, everybody has told of it


class Measure(NamedTuple):
    """`of`: a second, a request, or a token. `percentile` None: the mean. `points`: differences count as they are, no share."""

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
    "itl_p50": Measure("ITL p50", "ms", "token", "time from one token of a request to its next", percentile=50),
    "itl_p99": Measure("ITL p99", "ms", "token", "time from one token of a request to its next", percentile=99),
    "step": Measure("step", "ms", "second", "median wall time of a step, mean over ranks"),
    "bubble": Measure("bubble", "%", "second", "idle share of time with work, mean over ranks", points=True),
    "wait": Measure(
        "wait", "%", "second", "wait for the last rank in collectives, of time with work, mean over ranks", points=True
    ),
    "transfer": Measure("transfer", "%", "second", "transfer in collectives, of time with work, mean over ranks", points=True),
    "mfu": Measure(
        "MFU",
        "%",
        "second",
        "FLOPs that the model needs / (time with work * the device's peak), mean over ranks",
        higher_is_better=True,
        points=True,
    ),
    "mbu": Measure(
        "MBU",
        "%",
        "second",
        "(weights + KV that steps have to move) / (time with work * the memory's peak), mean over ranks",
        higher_is_better=True,
        points=True,
    ),
    "memory": Measure("memory", "MiB", "second", "used by the fullest rank"),
    "balance": Measure(
        "balance",
        "%",
        "second",
        "mean / max: of tokens over members of the ep axis, mean over layers; of a dense model, of compute over ranks",
        higher_is_better=True,
        points=True,
    ),
}


@dataclass
class Measured:
    """The samples of one run, by the keys of `MEASURES`."""

    seconds: float  # recorded
    samples: dict[str, Samples] = field(default_factory=lambda: {key: Samples() for key in MEASURES})
    busy_seconds: int = 0
    requests: int = 0
    prompt_tokens: int = 0  # of finished requests
    output_tokens: int = 0
    running: int = 0  # requests, summed over busy seconds
    lost: int = 0
    events: dict[str, int] = field(default_factory=dict)  # by severity

    def value(self, key: str) -> float | None:
        """The run's figure; `None` when there is none."""
        return self.samples[key].value(MEASURES[key].percentile)

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


def measure(profile: Profile, progress: Callable[[float], None] | None = None) -> Measured:
    """Read the whole recording once. `progress` is told now and then how much of it is done, 0 to 1."""
    measured = Measured(profile.seconds)
    fold, balance = Fold(window_s=1.0), _Balance()
    second = profile.start_ns // SECOND + 1  # the first whole one
    begun = False
    for entry in profile.entries():
        while entry.arrived_ns >= (second + 1) * SECOND + LATE:
            _take_second(measured, fold, second, balance)
            second += 1
            if progress is not None:
                progress(profile.moment(second * SECOND) / profile.seconds)
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
    ttft = time_to_first_token_s(record)
    if ttft is not None and record.first_token_ns is not None:
        for name in ("ttft_p50", "ttft_p99"):
            measured.samples[name].add(record.first_token_ns // SECOND, 1e3 * ttft)
        at_ns = record.first_token_ns
        for gap_ns in record.gaps_ns:
            at_ns += gap_ns
            for name in ("itl_p50", "itl_p99"):
                measured.samples[name].add(at_ns // SECOND, gap_ns / 1e6)


def _take_second(measured: Measured, fold: Fold, second: int, balance: _Balance) -> None:
    for deployment in fold.snapshot((second + 1) * SECOND - 1).deployments[:1]:
        engine = deployment.engine
        if engine.running or engine.waiting or engine.tokens_per_s:
            measured.busy_seconds += 1
            measured.running += engine.running
            for key, value in chain(_of_second(deployment), [("balance", balance.of(deployment))]):
                if value is not None:
                    measured.samples[key].add(second, value)


def _of_second(deployment: DeploymentView) -> Iterator[tuple[str, float | None]]:
    ranks = deployment.ranks
    yield "throughput", deployment.engine.tokens_per_s
    yield "step", _mean([rank.step_ms for rank in ranks])
    yield "bubble", _mean([rank.bubble_pct for rank in ranks])
    splits = [rank.split for rank in ranks if rank.split is not None]
    yield "wait", _mean([split.wait for split in splits])
    yield "transfer", _mean([split.transfer for split in splits])
    yield "mfu", deployment.mfu_pct
    yield "mbu", deployment.mbu_pct
    used = [rank.memory.used for rank in ranks if rank.memory.used is not None]
    yield "memory", max(used) / 2**20 if used else None


class _Balance:
    """Of experts by the second, or where so few tokens came that chance would decide, by as many seconds as it takes."""

    def __init__(self) -> None:
        self._untold: ExpertsView | None = None

    def of(self, deployment: DeploymentView) -> float | None:
        """In percent."""
        if deployment.layout.get("ep", 1) < 2:
            balance = balancedness([rank.compute_ms for rank in deployment.ranks if rank.compute_ms is not None])
            return None if balance is None else 100 * balance
        told = deployment.experts
        if told is None:
            return None
        if self._untold is not None and (self._untold.layers, self._untold.owners) == (told.layers, told.owners):
            rows = zip(told.tokens, self._untold.tokens, strict=True)
            told = ExpertsView(told.layers, told.owners, tuple(tuple(map(add, now, before)) for now, before in rows))
        found = expert_balance(msgspec.structs.replace(deployment, experts=told))
        self._untold = told if found is None else None
        return None if found is None else 100 * found.balance


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _about(measure: Measure) -> dict[str, Any]:
    return {"unit": measure.unit, "formula": measure.formula, "higher_is_better": measure.higher_is_better}
