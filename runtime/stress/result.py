"""What a stress run found: plain data, and the one JSON object that `shardscope stress --json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

ATTACHMENT = "stress.json"  # its name in the profile that was recorded meanwhile
FORMULAS = {
    "ttft": "first event - intended send",
    "itl": "gap between one event of an answer and the next, all answers pooled",
    "tpot": "(last event - first event) / (output tokens - 1) of an answer",
    "e2e": "last event - intended send",
}


class Latency(Struct, frozen=True):
    """Milliseconds over answers that are whole. `quantiles`: 0 %, 5 %, ... 100 %, linearly interpolated."""

    formula: str
    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    quantiles: tuple[float, ...]


class Requests(Struct, frozen=True):
    """sent = warmup + measured; measured = ok + errors + interrupted (by us, on the way).

    `short`: whole, with fewer tokens than asked.
    """

    sent: int
    warmup: int
    measured: int
    ok: int
    errors: int
    interrupted: int
    short: int


class Goodput(Struct, frozen=True):
    """Answers that met every limit of `slo` (ms): a second of the window, and of all that were answered or failed.

    fraction = good / (ok + errors); low and high are its Wilson 95 % interval. None: nothing was answered.
    """

    slo: dict[str, float]
    good: int
    requests_per_s: float
    fraction: float | None
    low: float | None
    high: float | None


class Generator(Struct, frozen=True):
    """The load generator's own honesty. Lag = actual send - intended send, of measured requests.

    cpu_share: CPU time of its thread / wall time. `behind`: the load, or the look at its answers, was not what it claims to be;
    `why` says it in words. Late: how long after its time a timer of its event loop went off, every 20 ms: as late, at times, it
    saw what had come.
    """

    lag_ms_p50: float | None
    lag_ms_p99: float | None
    cpu_share: float
    behind: bool
    why: str
    late_ms_p99: float | None = None


class FaultDone(Struct, frozen=True):
    """What became of a fault; `at_s` is when it was done, `pid` None when it was not."""

    fault: str
    at_s: float
    pid: int | None
    outcome: str


class Second(Struct, frozen=True):
    """One second of the load, warm-up included. Latencies (ms) of the answers that ended in it. `tokens`: came in it."""

    at_s: int
    sent: int
    done: int
    errors: int
    in_flight: int
    tokens: float
    ttft_ms_p50: float | None
    ttft_ms_p99: float | None
    tpot_ms_p50: float | None


class ServerSide(Struct, frozen=True):
    """The deployment's own count of the time of a load, by what its /metrics grew: of everybody's requests, its warm-up's too.

    Means in milliseconds, by its own clock from a request's arrival: what the clients see more of is the way there and back.
    """

    requests: int
    prompt_tokens: int
    output_tokens: int
    ttft_ms: float | None
    tpot_ms: float | None
    e2e_ms: float | None


class Result(Struct, frozen=True):
    """One load. Rates are over the window: from the end of the warm-up to the end of the last measured answer.

    `kind`: "open loop" or "closed loop": latencies of a closed loop leave out the queue that its clients do not make.
    `output_tokens`: of answers that are whole, warm-up ones with what came in the window. `latency`: by `FORMULAS`' names,
    without those of which nothing was measured. `interactivity`: tokens/s that one client sees, 1000 / TPOT p50.
    `events`: of the measured whole answers; fewer than their tokens when some came together or had no text, and then the ITL is
    a gap between more than one token. `profiles`: the files of its recording, in order, the figures attached to the last;
    `unrecorded`: why there is none, or not all.
    """

    name: str
    url: str
    kind: str
    load: str
    concurrency: int | None
    input_tokens: str
    asked_tokens: str
    seed: int
    started: float  # unix seconds
    interrupted: bool
    warmup_s: float
    window_s: float
    requests: Requests
    errors: dict[str, int]
    latency: dict[str, Latency]
    prompt_tokens: int
    cached_tokens: int
    events: int
    output_tokens: float
    output_tokens_per_s: float
    requests_per_s: float
    interactivity: float | None
    goodput: Goodput | None
    generator: Generator
    faults: tuple[FaultDone, ...]
    timeline: tuple[Second, ...]
    server: ServerSide | None = None
    profiles: tuple[str, ...] = ()
    unrecorded: str = ""


class Steps(Struct, frozen=True):
    """Loads of growing concurrency. `knee`: the concurrency beyond which more of it buys little; None: nothing was answered."""

    steps: tuple[Result, ...]
    knee: int | None
    rule: str
    interrupted: bool


class Trial(Struct, frozen=True):
    """One layout of a sweep. `pause_s`: without tokens while it was changed to. `why`: why it was not measured; else empty."""

    layout: str
    pause_s: float | None = None
    steps: tuple[Result, ...] = ()
    knee: int | None = None
    why: str = ""


class Sweep(Struct, frozen=True):
    """Steps of concurrency under one layout after the other. `first`: the layout before; `unrestored`: why it is not back."""

    name: str
    first: str
    trials: tuple[Trial, ...]
    interrupted: bool
    unrestored: str = ""


Found = Result | Steps | Sweep


def attached(documents: Mapping[str, bytes]) -> Result | None:
    """What the load of a recording found, by what is attached to its profile; None where no load was recorded. Raises ValueError
    where that cannot be read."""
    data = documents.get(ATTACHMENT)
    return None if data is None else msgspec.json.decode(data, type=Result)


def runs_of(found: Found) -> tuple[Result, ...]:
    """All loads, in order."""
    if isinstance(found, Sweep):
        return tuple(step for trial in found.trials for step in trial.steps)
    return found.steps if isinstance(found, Steps) else (found,)


def as_object(found: Found) -> dict[str, Any]:
    """JSON-ready: the structs' fields by their names."""
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain
