"""The figures of one rank as pieces of a line, shared by grid and table."""

from __future__ import annotations

from functools import lru_cache

from telemetry.snapshot import MemoryView, RankView
from tui.view.bars import Share, gauge
from tui.view.figures import UNAVAILABLE, milliseconds, percent, size
from tui.view.line import BLANK, Line, Span, line

BUBBLE_WARN_PCT = 20.0
LATE_WAIT = 0.5  # of the time in collectives, spent waiting: then the wait is the news


def occupied(memory: MemoryView) -> int | None:
    """Bytes in use: what the process holds, or at least what it has laid out."""
    known = [part for part in (memory.weights, memory.kv, memory.activations) if part is not None]
    if memory.used is None:
        return sum(known) if known else None
    return max(memory.used, sum(known))


def memory_text(memory: MemoryView, units: str) -> str:
    """`112Gi/140Gi`."""
    return f"{size(occupied(memory), units)}/{size(memory.total, units)}"


@lru_cache(1024)  # memory is told once a second, frames are oftener
def memory_gauge(memory: MemoryView, columns: int) -> Line:
    """Weights, KV, everything else in use, of what the rank may use; where that is unknown, of what it uses."""
    used = occupied(memory)
    if used is None:
        return BLANK
    weights, kv = memory.weights or 0, memory.kv or 0
    shares = [Share(weights, "█", "weights"), Share(kv, "▓", "kv"), Share(max(0, used - weights - kv), "▒", "other")]
    return gauge(shares, max(memory.total or 0, used), columns)


def bubble(rank: RankView) -> Line:
    high = rank.bubble_pct is not None and rank.bubble_pct >= BUBBLE_WARN_PCT
    return line(percent(rank.bubble_pct) + ("!" if high else ""), "warn" if high else "")


def allreduce(rank: RankView) -> Line:
    """Milliseconds a step; `!` when most of it is waiting for a late rank."""
    axis = rank.axes.get("tp")
    if axis is None:
        return line(UNAVAILABLE, "dim")
    waits = axis.wait_ms > LATE_WAIT * (axis.wait_ms + axis.transfer_ms) and axis.wait_ms >= 0.1 * (rank.step_ms or 0.0)
    return line(milliseconds(rank.allreduce_ms) + ("!" if waits else ""), "warn" if waits else "")


def step_gauge(rank: RankView, columns: int) -> Line:
    """Where a step's time went: compute, transfer, wait for other ranks, wait for the previous stage and host gap."""
    compute, arrives, host = rank.compute_ms, rank.recv_wait_ms, rank.gap_ms
    if compute is None:
        return BLANK
    shares = [
        Share(compute, "█", "weights"),
        Share(sum(axis.transfer_ms for axis in rank.axes.values()), "▓", "kv"),
        Share(sum(axis.wait_ms for axis in rank.axes.values()), "▒", "wait"),
        Share((arrives or 0.0) + (host or 0.0), "·", "dim"),
    ]
    return gauge(shares, sum(share.value for share in shares), columns)


def utilization(rank: RankView) -> Span:
    return Span(f"{percent(rank.util):<4}", "bold" if rank.util is not None else "dim")
