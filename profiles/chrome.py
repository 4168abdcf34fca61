"""A recording as a Chrome trace, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

Ranks are processes: their steps are slices, and under them the step's parts. A step record tells how long each part took in all,
not when: parts are drawn one after the other, and each says so. The deployment is a process of its own, with counters, requests
and events. Times are microseconds since the recording's beginning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from profiles.reader import Profile
from profiles.tables import records
from telemetry.records import (
    DeploymentRecord,
    DeviceRecord,
    EngineRecord,
    EventRecord,
    RequestRecord,
    StepRecord,
)

STEPS, PARTS = 1, 2  # threads of a rank
_FIRST_RANK = 10  # process ids: the deployment is 1, ranks are their number and this

Slice = dict[str, Any]


def export_chrome(profile: Profile, out: Path) -> int:
    """Write the trace; returns how many events it has. Raises OSError."""
    count = 0
    with out.open("w") as file:
        file.write('{"displayTimeUnit":"ms","otherData":')
        json.dump({"recording": profile.path.name, "parts": "of a step: how long is measured, their order is not"}, file)
        file.write(',"traceEvents":[\n')
        for count, event in enumerate(trace_events(profile), 1):
            file.write(",\n" if count > 1 else "")
            json.dump(event, file, separators=(",", ":"))
        file.write("\n]}\n")
    return count


def trace_events(profile: Profile) -> Iterator[Slice]:
    """Every event of the trace; names of processes first appear when their process does."""
    named: set[int] = set()
    yield from _names(1, f"deployment {profile.provenance.deployment if profile.provenance else ''}".strip(), 0)
    last: dict[int, EngineRecord] = {}
    for _, _, record in records(profile):
        match record:
            case DeploymentRecord():
                for info in record.ranks:
                    place = f"dp{info.dp} pp{info.pp} ep{info.ep} tp{info.tp}"
                    named.add(info.rank)
                    yield from _names(_FIRST_RANK + info.rank, f"rank {info.rank} {place} {info.device}", 1 + info.rank)
            case StepRecord():
                if record.rank not in named:
                    named.add(record.rank)
                    yield from _names(_FIRST_RANK + record.rank, f"rank {record.rank}", 1 + record.rank)
                yield from _step(profile, record)
            case EngineRecord():
                yield from _engine(profile, record, last.get(record.replica))
                last[record.replica] = record
            case RequestRecord():
                yield from _request(profile, record)
            case DeviceRecord():
                shown = {"cpu_percent": record.cpu_percent, "gpu_util": record.gpu_util, "power_w": record.power_w}
                for name, value in shown.items():
                    if value is not None:
                        yield _counter(profile, record.time_ns, _FIRST_RANK + record.rank, name, {name: value})
            case EventRecord():
                pid = 1 if record.rank is None else _FIRST_RANK + record.rank
                args = {"severity": record.severity, "text": record.text}
                yield _event(profile, "i", record.kind, record.time_ns, pid, STEPS, s="g" if pid == 1 else "p", args=args)


def _step(profile: Profile, record: StepRecord) -> Iterator[Slice]:
    pid = _FIRST_RANK + record.rank
    kind = "prefill" if record.prefill_tokens else "decode"
    args = {
        "step": record.step,
        "slot": record.slot,
        "prefill_tokens": record.prefill_tokens,
        "decode_tokens": record.decode_tokens,
        "sequences": record.sequences,
        "generation": record.generation,
    }
    yield _slice(
        profile, f"{kind} {record.prefill_tokens + record.decode_tokens}", record.start_ns, record.wall_ns, pid, STEPS, args
    )
    at, end = record.start_ns, record.start_ns + record.wall_ns
    for name, taken, args in _parts(record):
        taken = min(taken, end - at)
        if taken > 0:
            yield _slice(profile, name, at, taken, pid, PARTS, args)
            at += taken
    yield _counter(profile, record.start_ns, pid, "KV blocks", {"used": record.kv_blocks_used})
    yield _counter(profile, record.start_ns, pid, "memory MiB", {"used": record.memory_bytes / 2**20})


def _parts(record: StepRecord) -> Iterator[tuple[str, int, Slice]]:
    yield "wait for previous stage", record.recv_wait_ns, {}
    yield "compute", record.compute_ns, {}
    for axis, time in record.axes.items():
        args = {"axis": axis, "calls": time.calls, "bytes": time.bytes}
        yield f"{axis} wait", time.wait_ns, args
        yield f"{axis} transfer", time.transfer_ns, args
    yield "host", record.gap_ns, {}


def _engine(profile: Profile, record: EngineRecord, last: EngineRecord | None) -> Iterator[Slice]:
    at, name = record.time_ns, f"replica {record.replica}"
    yield _counter(profile, at, 1, f"{name} requests", {"running": record.running, "waiting": record.waiting})
    yield _counter(profile, at, 1, f"{name} KV blocks", {"used": record.kv_used, "cached": record.kv_cached})
    yield _counter(profile, at, 1, f"{name} micro-batches", {"in flight": record.in_flight})
    if last is not None and at > last.time_ns and record.generated_tokens >= last.generated_tokens:
        rate = 1e9 * (record.generated_tokens - last.generated_tokens) / (at - last.time_ns)
        yield _counter(profile, last.time_ns, 1, f"{name} tokens/s", {"output": rate})


def _request(profile: Profile, record: RequestRecord) -> Iterator[Slice]:
    """Requests overlap, so they are asynchronous slices, each with its own line."""
    marks = (("queued", record.arrived_ns), ("prefill", record.scheduled_ns), ("decode", record.first_token_ns))
    known = [(name, at) for name, at in marks if at is not None]
    args = {
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "output_tokens": record.output_tokens,
        "finish": record.finish_reason,
    }
    ends = [at for _, at in known[1:]] + [record.finished_ns]
    spans = ((name, at, max(at, end)) for (name, at), end in zip(known, ends, strict=True))
    whole = (f"request {record.request}", record.arrived_ns, max(record.arrived_ns, record.finished_ns))
    for name, at, end in chain((whole,), spans):
        fields: Slice = {"cat": "request", "id": record.request}
        yield _event(profile, "b", name, at, 1, STEPS, **fields, args=args)
        yield _event(profile, "e", name, end, 1, STEPS, **fields)


def _names(pid: int, name: str, order: int) -> Iterator[Slice]:
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "ts": 0, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "ts": 0, "args": {"sort_index": order}}
    if pid >= _FIRST_RANK:
        for tid, thread in ((STEPS, "steps"), (PARTS, "parts of steps")):
            yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "ts": 0, "args": {"name": thread}}


def _slice(profile: Profile, name: str, start_ns: int, taken_ns: int, pid: int, tid: int, args: Slice) -> Slice:
    return _event(profile, "X", name, start_ns, pid, tid, dur=taken_ns / 1e3, args=args)


def _counter(profile: Profile, at_ns: int, pid: int, name: str, values: Slice) -> Slice:
    return _event(profile, "C", name, at_ns, pid, 0, args=values)


def _event(profile: Profile, phase: str, name: str, at_ns: int, pid: int, tid: int, **more: Any) -> Slice:
    return {"ph": phase, "name": name, "ts": (at_ns - profile.start_ns) / 1e3, "pid": pid, "tid": tid, **more}
