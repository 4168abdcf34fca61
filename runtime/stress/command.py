"""`shardscope stress`: flags into plans, the load, and its result on stdout. Words and the live line go to stderr."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from runtime.client import ControlClient
from runtime.stress.arrivals import KINDS, OpenLoop
from runtime.stress.client import Target, TargetFailed, context_of
from runtime.stress.faults import LocalRanks, Ranks, parse_fault
from runtime.stress.goodput import parse_slo
from runtime.stress.lengths import parse_lengths
from runtime.stress.load import Progress, run
from runtime.stress.plan import DEFAULT_INPUT, DEFAULT_OUTPUT, ClosedLoop, Pattern, Plan, check
from runtime.stress.report import as_html
from runtime.stress.result import Result, Steps, as_object
from runtime.stress.steps import run_steps
from runtime.stress.table import as_text, knee_line, progress_line, step_header, step_row
from runtime.stress.trace import read_trace
from runtime.stress.values import BadPlan, positive, refuse, whole

DURATION_S, STEP_S = 30.0, 10.0
LINE_EVERY_S = 5.0  # where the line cannot be written over
INTERRUPTED, FAILED = 130, 1

__all__ = ["BadPlan", "TargetFailed", "stress"]


@dataclass(frozen=True)
class Wanted:
    """`steps`: of concurrency; None for a single load, empty for as many as it takes to find the knee."""

    plan: Plan
    steps: tuple[int, ...] | None = None


def wanted(given: Mapping[str, Any]) -> Wanted:
    """What the flags ask for. Raises BadPlan."""
    ways = [name for name in ("rate", "concurrency", "trace") if name in given]
    if len(ways) > 1:
        raise refuse(" and ".join(f"--{way}" for way in ways), "together", "a load has one pattern", f"--{ways[0]} alone")
    for name in ("arrivals", "burstiness", "ramp"):
        if name in given and ways not in ([], ["rate"]):
            raise refuse(
                f"--{name}", given[name], f"it is of an open loop, --{ways[0]} is another pattern", f"without --{ways[0]}"
            )
    steps = _steps(given["concurrency"]) if "concurrency" in given else None
    stepping = steps is not None and len(steps) != 1
    pattern = _pattern(given, steps)
    duration_s = given.get("duration")
    if duration_s is not None:
        positive("--duration", duration_s, DURATION_S)
    elif "requests" not in given and "trace" not in given:
        duration_s = STEP_S if stepping else DURATION_S
    if given.get("requests", 1) < 1:
        raise refuse("--requests", given["requests"], "it must be at least 1", 1)
    if given.get("warmup", 0) < 0:
        raise refuse("--warmup", given["warmup"], "it must be at least 0 s", 0)
    plan = Plan(
        pattern,
        duration_s,
        given.get("requests"),
        parse_lengths("--input-tokens", given["input_tokens"]) if "input_tokens" in given else DEFAULT_INPUT,
        parse_lengths("--output-tokens", given["output_tokens"]) if "output_tokens" in given else DEFAULT_OUTPUT,
        seed=given.get("seed", 0),
        slo=parse_slo(given["slo"]) if "slo" in given else None,
        warmup_s=given.get("warmup", 0.0),
        faults=tuple(parse_fault(text) for text in given.get("fault", ())),
    )
    check(plan, None)
    return Wanted(plan, steps if stepping else None)


def _pattern(given: Mapping[str, Any], steps: tuple[int, ...] | None) -> Pattern:
    if steps is not None:
        return ClosedLoop(steps[0] if steps else 1)
    if "trace" in given:
        return read_trace(Path(given["trace"]))
    kind = given.get("arrivals", "gamma" if "burstiness" in given else "poisson")
    if kind not in KINDS:
        raise refuse("--arrivals", f"'{kind}'", f"it must be {', '.join(KINDS)}", "poisson")
    if "burstiness" in given and kind != "gamma":
        raise refuse("--burstiness", f"{given['burstiness']:g}", f"{kind} arrivals have none", "--arrivals gamma")
    burstiness = positive("--burstiness", given.get("burstiness", 1.0), 0.1)
    ramp = positive("--ramp", given["ramp"], 0.1) if "ramp" in given else None
    return OpenLoop(positive("--rate", given.get("rate", 1.0), 0.1), kind, burstiness, ramp)


def _steps(text: str) -> tuple[int, ...]:
    """`auto` is the empty one."""
    return () if text == "auto" else tuple(whole("--concurrency", each, '"8", "1,8,32" or "auto"') for each in text.split(","))


def stress(name: str, given: Mapping[str, Any], as_json: bool, run_dir: Path | None) -> int:
    """The exit code. Raises BadPlan for what cannot be, TargetFailed, and what `ControlClient` raises."""
    asked = wanted(given)
    report = Path(given["report"]) if "report" in given else None
    if report is not None and not report.absolute().parent.is_dir():
        raise refuse("--report", report, "its directory does not exist", report.name)
    target, ranks = _target(name, given, run_dir, asked.plan)
    check(asked.plan, context_of(target))
    with _stopped_by_ctrl_c() as stop, _live() as live:
        found = _measure(asked, target, live, stop, ranks, as_json)
    if as_json:
        print(json.dumps(as_object(found)))
    elif isinstance(found, Result):
        print(as_text(found))
    if report is not None:
        report.write_text(as_html(found))
        print(f"report: {report}", file=sys.stderr)
    runs = found.steps if isinstance(found, Steps) else (found,)
    if found.interrupted:
        return INTERRUPTED
    return 0 if any(each.requests.ok for each in runs) else FAILED


def _measure(
    asked: Wanted,
    target: Target,
    live: Callable[[Progress], None],
    stop: threading.Event,
    ranks: Ranks | None,
    as_json: bool,
) -> Result | Steps:
    if asked.steps is None:
        return run(asked.plan, target, live, stop, ranks)

    def one(concurrency: int) -> Result:
        return run(replace(asked.plan, pattern=ClosedLoop(concurrency)), target, live, stop, ranks)

    rows = sys.stderr if as_json else sys.stdout

    def tell(result: Result) -> None:
        _wipe()
        print(step_row(result), file=rows, flush=True)

    print(step_header(), file=rows, flush=True)
    steps = run_steps(asked.steps or None, one, tell)
    print(knee_line(steps), file=rows, flush=True)
    return steps


def _target(name: str, given: Mapping[str, Any], run_dir: Path | None, plan: Plan) -> tuple[Target, Ranks | None]:
    """Where to send, and who finds the ranks that faults go to."""
    if "url" in given:
        if plan.faults:
            raise refuse("--fault", "with --url", "faults go to local deployments of this daemon alone", "--fault without --url")
        url = str(given["url"]).rstrip("/").removesuffix("/v1")
        if not url.startswith(("http://", "https://")):
            raise refuse("--url", f"'{url}'", "it must begin with http:// or https://", f"http://{url}")
        return Target(url, name), None
    with ControlClient(run_dir) as client:
        info, snapshot = client.status()
    view = next((each for each in snapshot.deployments if each.name == name), None)
    if view is None:
        known = ", ".join(each.name for each in snapshot.deployments) or "deploy a model first"
        raise refuse("NAME", f"'{name}'", "no such deployment", known)
    for fault in plan.faults:
        if fault.rank >= len(view.ranks):
            rule = f"'{name}' has the ranks 0 to {len(view.ranks) - 1}"
            raise refuse("--fault rank", fault.rank, rule, max(0, len(view.ranks) - 1))
    return Target(info.http, name), LocalRanks(run_dir, name)


@contextmanager
def _stopped_by_ctrl_c() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C; the second ends us as ever."""
    stop = threading.Event()

    def told(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, told)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _live() -> Iterator[Callable[[Progress], None]]:
    """One line on stderr, written over on a terminal; elsewhere a new one now and then."""
    said = time.monotonic()

    def show(now: Progress) -> None:
        nonlocal said
        if sys.stderr.isatty():
            print(f"\r\x1b[K{progress_line(now)}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - said >= LINE_EVERY_S:
            said = time.monotonic()
            print(progress_line(now), file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        _wipe()


def _wipe() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
