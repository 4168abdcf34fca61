"""The script's step records: what each rank did in the last seconds, with its phases."""

from __future__ import annotations

import math
from collections.abc import Iterator

from msgspec.structs import replace

from telemetry.records import AxisTime, Phase, StepRecord
from tui.demo import story
from tui.demo.experts import FAN_OUT
from tui.demo.pace import HIDDEN, Pace, all_reduces, all_to_alls, paces
from tui.demo.schedule import EPOCH_S, Job, Script, jobs

WINDOW_S = 3.0
_SAMPLE = 0.04  # of the last stage's forward pass


def timeline(script: Script, at: float) -> tuple[StepRecord, ...]:
    """The steps of all ranks that ended in the last seconds before `at`, oldest first."""
    epochs = range(max(0, math.floor((at - WINDOW_S) / EPOCH_S)), math.floor(at / EPOCH_S) + 1)
    records = [
        record
        for replica in range(script.layout.dp)
        for epoch in epochs
        for job in jobs(script, epoch, replica)
        if at - WINDOW_S < job.ends[-1] and job.ends[0] <= at
        for record in _records(script, job, replica)
    ]
    ended = [record for record in records if record.start_ns + record.wall_ns <= at * 1e9]
    return tuple(sorted(ended, key=lambda record: (record.start_ns + record.wall_ns, record.rank)))


def _records(script: Script, job: Job, replica: int) -> Iterator[StepRecord]:
    layout = script.layout
    moment = script.moment(job.planned)
    found = paces(int(moment), layout)
    alike: dict[tuple[int, Pace], StepRecord] = {}  # ranks of a stage differ in little else than their number
    for rank in range(replica * layout.replica_size, (replica + 1) * layout.replica_size):
        kind = layout.coordinates(rank).pp, found[rank]
        if kind not in alike:
            alike[kind] = _record(script, job, rank, found[rank], story.launched(moment)[1], story.load(moment))
        yield replace(alike[kind], rank=rank)


def _record(script: Script, job: Job, rank: int, pace: Pace, generation: int, load: float) -> StepRecord:
    layout = script.layout
    stage = layout.coordinates(rank).pp
    host, recv = _ns(1e-3 * pace.host), _ns(job.waits[stage])
    start = _ns(job.starts[stage]) - recv - host
    send = _ns(1e-3 * pace.send)
    message = (job.prefill + job.decode) * HIDDEN * 2
    tp, ep = all_reduces(layout), all_to_alls(layout)
    kinds = (
        ("tp", tp, tp * message, job.work * pace.tp_wait, job.volume * pace.tp_transfer),
        ("ep", ep, ep * message * FAN_OUT, job.work * pace.ep_wait, job.volume * pace.ep_transfer),
        ("pp", 1 if pace.send else 0, message, 0.0, pace.send),
    )
    axes = {
        name: AxisTime(calls, size, _ns(1e-3 * wait), _ns(1e-3 * transfer))
        for name, calls, size, wait, transfer in kinds
        if calls
    }
    compute = _ns(1e-3 * job.work * pace.compute)
    forward = compute + sum(axis.wait_ns + axis.transfer_ns for axis in axes.values()) - send
    sample = round(_SAMPLE * compute) if stage == layout.pp - 1 else 0
    lengths = (("recv", recv), ("forward", forward - sample), ("send", send), ("sample", sample))
    phases: list[Phase] = []
    offset = host
    for name, length in lengths:
        if length:
            phases.append(Phase(name, offset, length))
            offset += length
    return StepRecord(
        rank=rank,
        generation=generation,
        step=job.step,
        slot=job.slot,
        start_ns=start,
        wall_ns=offset,
        idle_ns=_ns(job.idle[stage]),
        gap_ns=host,
        recv_wait_ns=recv,
        compute_ns=compute,
        axes=axes,
        prefill_tokens=job.prefill,
        decode_tokens=job.decode,
        sequences=job.decode + (1 if job.prefill else 0),
        kv_blocks_used=round(9_600 * load),
        kv_blocks_total=10_240,
        memory_bytes=134_500_000_000,
        phases=phases,
    )


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
