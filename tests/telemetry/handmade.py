"""Records by hand: a deployment of one replica on whole seconds, for tests of what is folded from them."""

from telemetry.histograms import duration_bucket
from telemetry.records import (
    SCHEMA_VERSION,
    CollectiveRecord,
    DeploymentRecord,
    EngineRecord,
    Envelope,
    RankInfo,
    RequestRecord,
    StepRecord,
)

S = 1_000_000_000
MS = 1_000_000


def deployment(generation=1, state="READY", pp=1, tp=1, dp=1, ep=1, name="demo", time_ns=0):
    ranks = [
        RankInfo(
            rank=((d * pp + p) * ep + e) * tp + t, dp=d, pp=p, ep=e, tp=t, pid=100, device="cpu", first_layer=p, last_layer=p
        )
        for d in range(dp)
        for p in range(pp)
        for e in range(ep)
        for t in range(tp)
    ]
    layout = {"dp": dp, "pp": pp, "ep": ep, "tp": tp}
    return DeploymentRecord(name, generation, time_ns, state, "model", layout, "cpu", "float32", False, ranks)


def engine(time_ns, running=1, generated=0, generation=1, replica=0, **counts):
    fields = dict.fromkeys(
        ("waiting", "kv_used", "kv_cached", "prompt_tokens", "finished", "aborted", "preemptions"), 0
    ) | dict.fromkeys(("prefix_queries", "prefix_hits", "steps", "in_flight"), 0)
    fields |= {"kv_total": 64, "generated_tokens": generated} | counts
    return EngineRecord(deployment="demo", generation=generation, replica=replica, time_ns=time_ns, running=running, **fields)


def step(start, compute, *, rank=0, number=0, generation=1, idle=0, gap=0, recv=0, axes=None, tokens=1, memory=1 << 20):
    """Times in ns; the wall time is the sum of its parts, as a rank's is."""
    axes = axes or {}
    wall = compute + gap + recv + sum(a.wait_ns + a.transfer_ns for a in axes.values())
    return StepRecord(
        rank=rank,
        generation=generation,
        step=number,
        slot=0,
        start_ns=start,
        wall_ns=wall,
        idle_ns=idle,
        gap_ns=gap,
        recv_wait_ns=recv,
        compute_ns=compute,
        axes=axes,
        prefill_tokens=0,
        decode_tokens=tokens,
        sequences=1,
        kv_blocks_used=1,
        kv_blocks_total=64,
        memory_bytes=memory,
    )


def collective(end_ns, rank, waits, transfers, *, op="all_reduce", axis="tp", size=4096, members=2, first=0, start_ns=None):
    """One rank's second of calls, each with its wait and transfer in ns."""
    durations = [wait + transfer for wait, transfer in zip(waits, transfers, strict=True)]
    return CollectiveRecord(
        rank=rank,
        generation=1,
        start_ns=end_ns - S if start_ns is None else start_ns,
        end_ns=end_ns,
        axis=axis,
        op=op,
        size_class=max(0, size - 1).bit_length(),
        members=members,
        first=first,
        calls=len(durations),
        bytes=size * len(durations),
        wait_ns=sum(waits),
        transfer_ns=sum(transfers),
        waits=counted(waits),
        durations=counted(durations),
    )


def counted(durations):
    buckets = [duration_bucket(ns) for ns in durations]
    return {bucket: buckets.count(bucket) for bucket in buckets}


def request(finished_ns, *, ttft_ms=100, itl_ms=10, tokens=11, generation=1, reason="stop"):
    first = finished_ns - (tokens - 1) * itl_ms * MS
    arrived = first - ttft_ms * MS
    return RequestRecord("demo", generation, "r", 0, arrived, arrived + MS, first, finished_ns, 5, 0, tokens, reason)


def envelope(*records, sender="rank:0", boot=1, seq=0, lost=0, name="demo"):
    return Envelope(SCHEMA_VERSION, name, sender, boot, seq, lost, list(records))
