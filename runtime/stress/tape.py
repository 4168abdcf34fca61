"""A load on a deployment of this daemon, which records it meanwhile: what clients saw goes into the profile of what ranks did."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec.structs import replace

from runtime.client import ControlClient, DaemonError
from runtime.control import Begun
from runtime.stress.client import Target
from runtime.stress.faults import LocalRanks
from runtime.stress.load import run
from runtime.stress.plan import Plan
from runtime.stress.progress import Progress, Recording
from runtime.stress.result import ATTACHMENT, Result, ServerSide
from telemetry.snapshot import EngineView, Snapshot

MOST_ATTACHED = 900_000  # bytes; a control message holds not much more
MARGIN_S = 120.0  # a recording whose load was killed ends so long after that was over
LONGEST_S = 4 * 3600.0  # of the recording of a load that requests end, and not time
SETTLE_S = 3.0  # for telemetry of the last requests to arrive


@dataclass(frozen=True)
class Site:
    """Where a load goes. `local`: to a deployment of the daemon in `run_dir`. `profiles`: the directory for recordings; `None`
    for none."""

    target: Target
    local: bool = False
    run_dir: Path | None = None
    profiles: Path | None = None


def measure(
    plan: Plan,
    site: Site,
    label: str,
    on_recording: Callable[[Recording], None],
    on_progress: Callable[[Progress], None],
    stop: threading.Event,
) -> Result:
    """Blocks until the load is over and its profile whole. `label` goes into the profile's name. Raises BadPlan and, when the
    daemon is gone before the load begins, DaemonError."""
    if not site.local:
        on_recording(Recording(why="another server's: only the daemon of a deployment can record it"))
        return run(plan, site.target, on_progress, stop)
    name = site.target.name
    with ControlClient(site.run_dir) as client:
        before = _engine(client.snapshot(), name)
        recording = _begin(client, name, plan, site.profiles, label)
        on_recording(recording)
        try:
            found = run(plan, site.target, on_progress, stop, LocalRanks(site.run_dir, name))
        except BaseException:
            if recording.path:
                with suppress(DaemonError):
                    client.stop_recording(name)
            raise
        with suppress(DaemonError):
            found = replace(found, server=_difference(before, _settled(client, name, before, found)))
        return _end(client, name, recording, found)


def _begin(client: ControlClient, name: str, plan: Plan, profiles: Path | None, label: str) -> Recording:
    if profiles is None:
        return Recording(why="not wanted")
    longest = LONGEST_S if plan.duration_s is None else plan.duration_s + plan.drain_s + MARGIN_S
    try:
        profiles.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = unused(profiles, name, label)
        for news in client.record(name, path, longest, wait=False):
            if isinstance(news, Begun):
                return Recording(str(path))
    except (DaemonError, OSError) as error:
        return Recording(why=str(error))
    return Recording(why="the daemon did not begin")


def _end(client: ControlClient, name: str, recording: Recording, found: Result) -> Result:
    if not recording.path:
        return replace(found, unrecorded=recording.why)
    data = msgspec.json.encode(found)
    if len(data) > MOST_ATTACHED:
        data = msgspec.json.encode(replace(found, timeline=()))
    try:
        report = client.stop_recording(name, {ATTACHMENT: data})
    except DaemonError as error:
        files = (recording.path,) if Path(recording.path).exists() else ()
        return replace(found, profiles=files, unrecorded=f"the recording ended before the load: {error}")
    return replace(found, profiles=tuple(report.files), unrecorded=report.error)


def unused(directory: Path, name: str, label: str, suffix: str = ".mcap") -> Path:
    """A path named after a deployment and the time, and `label` if there is one."""
    words = [name, time.strftime("%Y%m%d-%H%M%S"), *([label] if label else [])]
    stem = re.sub(r"[^\w.+-]", "_", "-".join(words))
    taken = 1
    path = directory / f"{stem}{suffix}"
    while path.exists() or path.with_name(path.name + ".part").exists():
        taken += 1
        path = directory / f"{stem}-{taken}{suffix}"
    return path


def _settled(client: ControlClient, name: str, before: EngineView | None, found: Result) -> EngineView | None:
    """The engine when it has told of all that it answered, or has had time to."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        now = _engine(client.snapshot(), name)
        if now is None or time.monotonic() > deadline:
            return now
        told = _finished(now) - (_finished(before) if before is not None else 0)
        if told >= found.requests.ok and not now.running and not now.waiting:
            return now
        time.sleep(0.05)


def _engine(snapshot: Snapshot, name: str) -> EngineView | None:
    return next((view.engine for view in snapshot.deployments if view.name == name), None)


def _finished(engine: EngineView) -> int:
    return sum(engine.finished_by_reason.values())


def _difference(before: EngineView | None, after: EngineView | None) -> ServerSide | None:
    if before is None or after is None:
        return None
    return ServerSide(
        requests=_finished(after) - _finished(before),
        prompt_tokens=after.prompt_tokens - before.prompt_tokens,
        output_tokens=after.generated_tokens - before.generated_tokens,
        ttft_ms=_mean_ms(before, after, "time_to_first_token_seconds"),
        tpot_ms=_mean_ms(before, after, "request_time_per_output_token_seconds"),
        e2e_ms=_mean_ms(before, after, "e2e_request_latency_seconds"),
    )


def _mean_ms(before: EngineView, after: EngineView, name: str) -> float | None:
    """Of what the histogram grew by."""
    last, first = after.histograms.get(name), before.histograms.get(name)
    if last is None:
        return None
    count = sum(last.counts) - (sum(first.counts) if first is not None else 0)
    return 1000 * (last.sum - (first.sum if first is not None else 0.0)) / count if count else None
