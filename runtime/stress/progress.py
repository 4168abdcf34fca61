"""A load on its way: what its watchers see of it. Plain data."""

from __future__ import annotations

from msgspec import Struct

from runtime.stress.result import FaultDone, Found, Result, Second, Trial

WINDOWS: dict[str, int | None] = {"10 s": 10, "60 s": 60, "run": None}  # by name, in seconds


class Spread(Struct, frozen=True):
    """Milliseconds, exact to a bucket of 1 %; formulas are those of `Latency`."""

    count: int
    p50: float
    p90: float
    p99: float


class Window(Struct, frozen=True):
    """The last `seconds` of a load. Latencies and `good` are of answers that ended in it, output tokens those that came in it.

    `good` of `judged` met the SLO, errors among the judged; `None` without one.
    """

    seconds: float
    sent_per_s: float
    done_per_s: float
    errors: int
    output_tokens_per_s: float
    latency: dict[str, Spread]
    good: int | None
    judged: int


class Progress(Struct, frozen=True):
    """Counts since the load began, the windows by `WINDOWS`' names, and its last seconds, oldest first.

    Lag, late and `cpu_share` as in `Generator`; `behind`: why the load is not what it claims to be; empty while it is.
    """

    load: str
    elapsed_s: float
    duration_s: float | None
    sent: int
    done: int
    errors: int
    in_flight: int
    windows: dict[str, Window]
    lag_ms_p99: float | None
    late_ms_p99: float | None
    cpu_share: float
    behind: str
    faults: tuple[FaultDone, ...]
    history: tuple[Second, ...]


class Recording(Struct, frozen=True):
    """Of a load that begins now. `path` empty: there is none, `why` says it."""

    path: str = ""
    why: str = ""


class LoadState(Struct, frozen=True):
    """All that a screen knows of what it started. `phase`: "starting", "running", "stopping", "over", "failed".

    `progress` and `recording`: of the load that runs, or ran last; `steps` and `trials`: those that are over. `said`: what goes
    on between loads. `found`, and the `files` it was written to: when it is over. `error`: why it failed.
    """

    name: str
    phase: str = "starting"
    load: str = ""
    stepping: bool = False
    sweep: bool = False
    slo: dict[str, float] = {}
    progress: Progress | None = None
    recording: Recording | None = None
    steps: tuple[Result, ...] = ()
    trials: tuple[Trial, ...] = ()
    said: str = ""
    found: Found | None = None
    files: tuple[str, ...] = ()
    error: str = ""

    @property
    def alive(self) -> bool:
        return self.phase in ("starting", "running", "stopping")
