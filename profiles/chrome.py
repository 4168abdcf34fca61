"""A recording, or some steps, as a Chrome trace, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

Ranks are processes with three threads: steps; phases, where a step records when each was (waiting for the previous stage is one);
and parts, of which a step records how long each took in all (compute, each axis' wait and transfer, host), not when: they are
drawn one after the other, and the trace says so. What is measured once a second (collectives, experts, memory, devices) are
counters. The deployment is a process of its own, with counters, requests and events. Times are microseconds since the
beginning of what is exported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

from profiles.reader import Profile
from profiles.tables import records
from telemetry.formulas import bus_bandwidth
from telemetry.records import (
    CollectiveRecord,
    DeploymentRecord,
    DeviceRecord,
    EngineRecord,
    EventRecord,
    ExpertRecord,
    RankInfo,
    RankMemory,
    RequestRecord,
    StepRecord,
)

STEPS, PHASES, PARTS = 1, 2, 3  # threads of a rank
_THREADS = ((STEPS, "steps"), (PHASES, "phases"), (PARTS, "parts of steps, not in their order"))
_PHASES = {"recv": "wait for previous stage"}
_DEVICE = {  # what of a device becomes a counter, and in which unit
    "CPU %": ("cpu_percent", 1.0),
    "GPU %": ("gpu_util", 1.0),
    "SM active %": ("sm_active", 1.0),
    "DRAM active %": ("dram_active", 1.0),
    "power W": ("power_w", 1.0),
    "temperature C": ("temperature_c", 1.0),
    "NVLink tx GB/s": ("nvlink_tx", 1e-9),
    "NVLink rx GB/s": ("nvlink_rx", 1e-9),
}
_FIRST_RANK = 10  # process ids: the deployment is 1, ranks are their number and this

Slice = dict[str, Any]


def export_chrome(profile: Profile, out: Path) -> int:
    """Write the trace; returns how many events it has. Raises OSError."""
    return _written(out, {"recording": profile.path.name}, trace_events(profile))


def export_steps(deployment: str, ranks: Iterable[RankInfo], steps: Sequence[StepRecord], out: Path) -> int:
    """Write the trace of steps alone, from the first of them on; returns how many events it has. Raises OSError."""
    since_ns = min((record.start_ns for record in steps), default=0)
    names = chain.from_iterable(map(_rank_names, ranks))
    slices = chain.from_iterable(_step(since_ns, record) for record in steps)
    return _written(out, {"deployment": deployment}, chain(names, slices))


def _written(out: Path, about: Slice, events: Iterable[Slice]) -> int:
    count = 0
    with out.open("w") as file:
        file.write('{"displayTimeUnit":"ms","otherData":')
        json.dump({**about, "parts": "of a step: how long is measured, their order is not"}, file)
        file.write(',"traceEvents":[\n')
        for count, event in enumerate(events, 1):
            file.write(",\n" if count > 1 else "")
            json.dump(event, file, separators=(",", ":"))
        file.write("\n]}\n")
    return count


def trace_events(profile: Profile) -> Iterator[Slice]:
    """Every event of the trace; names of processes first appear when their process does."""
    named: set[int] = set()
    yield from _names(1, f"deployment {profile.provenance.deployment if profile.provenance else ''}".strip(), 0)
    last: dict[int, EngineRecord] = {}
    since_ns = profile.start_ns
    for _, _, record in records(profile):
        match record:
            case DeploymentRecord():
                for info in record.ranks:
                    named.add(info.rank)
                    yield from _rank_names(info)
            case StepRecord():
                if record.rank not in named:
                    named.add(record.rank)
                    yield from _names(_FIRST_RANK + record.rank, f"rank {record.rank}", 1 + record.rank)
                yield from _step(since_ns, record)
            case EngineRecord():
                yield from _engine(since_ns, record, last.get(record.replica))
                last[record.replica] = record
            case RequestRecord():
                yield from _request(since_ns, record)
            case CollectiveRecord():
                yield from _collectives(since_ns, record)
            case ExpertRecord():
                yield from _experts(since_ns, record)
            case RankMemory():
                yield from _memory(since_ns, record)
            case DeviceRecord():
                for name, (field, factor) in _DEVICE.items():
                    if (value := getattr(record, field)) is not None:
                        yield _counter(since_ns, record.time_ns, _FIRST_RANK + record.rank, name, {"now": factor * value})
            case EventRecord():
                pid = 1 if record.rank is None else _FIRST_RANK + record.rank
                args = {"severity": record.severity, "text": record.text}
                yield _event(since_ns, "i", record.kind, record.time_ns, pid, STEPS, s="g" if pid == 1 else "p", args=args)


def _step(since_ns: int, record: StepRecord) -> Iterator[Slice]:
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
        since_ns, f"{kind} {record.prefill_tokens + record.decode_tokens}", record.start_ns, record.wall_ns, pid, STEPS, args
    )
    for phase in record.phases:
        if phase.duration_ns > 0:
            start_ns = record.start_ns + phase.offset_ns
            yield _slice(since_ns, _PHASES.get(phase.name, phase.name), start_ns, phase.duration_ns, pid, PHASES, {})
    at, end = record.start_ns, record.start_ns + record.wall_ns
    for name, taken, args in _parts(record):
        taken = min(taken, end - at)
        if taken > 0:
            yield _slice(since_ns, name, at, taken, pid, PARTS, args)
            at += taken
    yield _counter(since_ns, record.start_ns, pid, "KV blocks", {"used": record.kv_blocks_used})
    if record.flops is not None and record.wall_ns > 0:
        yield _counter(since_ns, record.start_ns, pid, "model GFLOP/s", {"needed": record.flops / record.wall_ns})
    if record.weight_bytes is not None and record.kv_bytes is not None and record.wall_ns > 0:
        moved = {"weights": record.weight_bytes / record.wall_ns, "KV": record.kv_bytes / record.wall_ns}
        yield _counter(since_ns, record.start_ns, pid, "model GB/s", moved)
    yield _counter(
        since_ns, record.start_ns, pid, "tokens in a step", {"prefill": record.prefill_tokens, "decode": record.decode_tokens}
    )


def _parts(record: StepRecord) -> Iterator[tuple[str, int, Slice]]:
    yield "wait for previous stage", record.recv_wait_ns, {}
    yield "compute", record.compute_ns, {}
    for axis, time in record.axes.items():
        args = {"axis": axis, "calls": time.calls, "bytes": time.bytes}
        yield f"{axis} wait", time.wait_ns, args
        yield f"{axis} transfer", time.transfer_ns, args
    yield "host", record.gap_ns, {}


def _collectives(since_ns: int, record: CollectiveRecord) -> Iterator[Slice]:
    """Counters hold until the next value, so a mean over a stretch stands at its beginning."""
    if not record.calls:
        return
    pid, at = _FIRST_RANK + record.rank, record.start_ns
    name = f"{record.axis} {record.op} <= {_size(1 << min(max(0, record.size_class), 48))}"
    each = {"wait": record.wait_ns / record.calls / 1e3, "transfer": record.transfer_ns / record.calls / 1e3}
    yield _counter(since_ns, at, pid, f"{name} us a call", each)
    if record.transfer_ns and record.members > 0:
        with suppress(ValueError):  # a barrier moves nothing
            busbw = bus_bandwidth(record.op, record.bytes, record.transfer_ns / 1e9, record.members)
            yield _counter(since_ns, at, pid, f"{name} busbw GB/s", {"busbw": busbw / 1e9})


def _experts(since_ns: int, record: ExpertRecord) -> Iterator[Slice]:
    if record.end_ns > record.start_ns:
        rate = 1e9 * sum(map(sum, record.tokens)) / (record.end_ns - record.start_ns)
        yield _counter(since_ns, record.start_ns, _FIRST_RANK + record.rank, "tokens to experts /s", {"all layers": rate})


def _memory(since_ns: int, record: RankMemory) -> Iterator[Slice]:
    parts = {name: getattr(record, name) for name in ("weights", "kv", "activations", "workspace", "other")}
    known = {name: size / 2**20 for name, size in parts.items() if size is not None}
    yield _counter(since_ns, record.time_ns, _FIRST_RANK + record.rank, "memory MiB", known)


def _size(size: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} GiB"


def _engine(since_ns: int, record: EngineRecord, last: EngineRecord | None) -> Iterator[Slice]:
    at, name = record.time_ns, f"replica {record.replica}"
    yield _counter(since_ns, at, 1, f"{name} requests", {"running": record.running, "waiting": record.waiting})
    yield _counter(since_ns, at, 1, f"{name} KV blocks", {"used": record.kv_used, "cached": record.kv_cached})
    yield _counter(since_ns, at, 1, f"{name} micro-batches", {"in flight": record.in_flight})
    if last is not None and at > last.time_ns and record.generated_tokens >= last.generated_tokens:
        rate = 1e9 * (record.generated_tokens - last.generated_tokens) / (at - last.time_ns)
        yield _counter(since_ns, last.time_ns, 1, f"{name} tokens/s", {"output": rate})


def _request(since_ns: int, record: RequestRecord) -> Iterator[Slice]:
    """Requests overlap, so they are asynchronous slices, each with its own line; its parts open and close within it."""
    marks = (("queued", record.arrived_ns), ("prefill", record.scheduled_ns), ("decode", record.first_token_ns))
    known = [(name, at) for name, at in marks if at is not None]
    args = {
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "output_tokens": record.output_tokens,
        "finish": record.finish_reason,
    }
    times = list(accumulate([at for _, at in known] + [record.finished_ns], max))
    fields: Slice = {"cat": "request", "id": record.request}
    whole = f"request {record.request}"
    yield _event(since_ns, "b", whole, times[0], 1, STEPS, **fields, args=args)
    for (name, _), (at, end) in zip(known, pairwise(times), strict=True):
        yield _event(since_ns, "b", name, at, 1, STEPS, **fields, args=args)
        yield _event(since_ns, "e", name, end, 1, STEPS, **fields)
    yield _event(since_ns, "e", whole, times[-1], 1, STEPS, **fields)


def _rank_names(info: RankInfo) -> Iterator[Slice]:
    place = f"dp{info.dp} pp{info.pp} ep{info.ep} tp{info.tp}"
    return _names(_FIRST_RANK + info.rank, f"rank {info.rank} {place} {info.device}", 1 + info.rank)


def _names(pid: int, name: str, order: int) -> Iterator[Slice]:
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "ts": 0, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "ts": 0, "args": {"sort_index": order}}
    if pid >= _FIRST_RANK:
        for tid, thread in _THREADS:
            yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "ts": 0, "args": {"name": thread}}
            yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "ts": 0, "args": {"sort_index": tid}}


def _slice(since_ns: int, name: str, start_ns: int, taken_ns: int, pid: int, tid: int, args: Slice) -> Slice:
    before = min(taken_ns, max(0, since_ns - start_ns))
    return _event(since_ns, "X", name, start_ns + before, pid, tid, dur=(taken_ns - before) / 1e3, args=args)


def _counter(since_ns: int, at_ns: int, pid: int, name: str, values: Slice) -> Slice:
    return _event(since_ns, "C", name, at_ns, pid, 0, args=values)


def _event(since_ns: int, phase: str, name: str, at_ns: int, pid: int, tid: int, **more: Any) -> Slice:
    """What began before the recording begins with it: a trace has no time before 0."""
    return {"ph": phase, "name": name, "ts": max(0, at_ns - since_ns) / 1e3, "pid": pid, "tid": tid, **more}
