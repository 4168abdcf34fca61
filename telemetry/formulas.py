"""The metrics' formulas, each a pure function with its source. Times in seconds, sizes in bytes unless a name says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb


def percentile(values: Sequence[float], q: float) -> float | None:
    """The q-th percentile (0 to 100) by linear interpolation between closest ranks (numpy's default); `None` of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * q / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def algorithm_bandwidth(size: float, seconds: float) -> float:
    """Bytes per second of a collective, S/t (nccl-tests, PERFORMANCE.md).

    `size` is one rank's bytes for an all-reduce and the total over ranks for the others.
    """
    return size / seconds if seconds > 0 else 0.0


def bus_factor(op: str, ranks: int) -> float:
    """What turns algorithm into bus bandwidth, the load of the slowest link (nccl-tests, PERFORMANCE.md).

    2(n-1)/n for all-reduce; (n-1)/n for all-gather, reduce-scatter, all-to-all, gather and scatter; 1 for the others.
    """
    match op:
        case "all_reduce":
            return 2 * (ranks - 1) / ranks
        case "all_gather" | "reduce_scatter" | "all_to_all" | "gather" | "scatter":
            return (ranks - 1) / ranks
        case "broadcast" | "reduce" | "send" | "recv":
            return 1.0
    raise ValueError(f"'{op}' is no collective")


def bus_bandwidth(op: str, size: float, seconds: float, ranks: int) -> float:
    """Bytes per second comparable with the link's: algorithm bandwidth times `bus_factor`."""
    return algorithm_bandwidth(size, seconds) * bus_factor(op, ranks)


def split_collective(durations: Sequence[float]) -> tuple[float, list[float]]:
    """One collective's durations by rank -> (transfer, wait by rank).

    The last rank to arrive waits for nobody, so its duration, the shortest, is the transfer; what the others took longer is wait.
    """
    transfer = min(durations, default=0.0)
    return transfer, [duration - transfer for duration in durations]


def by_chance(times: int, of: int, among: int) -> float:
    """How likely chance singles out anybody of `among` equals at least `times` of `of` times (binomial, Bonferroni's bound)."""
    p = 1 / among
    tail = sum(comb(of, i) * p**i * (1 - p) ** (of - i) for i in range(times, of + 1))
    return min(1.0, among * tail)


def bubble_fill_drain(stages: int, micro_batches: int) -> float:
    """Idle share of the total time when m micro-batches pass p equal stages once: (p-1)/(m+p-1) (GPipe).

    Megatron quotes (p-1)/m for the same thing: its denominator is the ideal time.
    """
    return (stages - 1) / (micro_batches + stages - 1)


def bubble_steady_decode(stages: int, micro_batches: float, stage_times: Sequence[float] = ()) -> float:
    """Idle share, mean over the stages, of steady decode with m micro-batches in flight, from 0 to 1.

    A micro-batch enters stage 0 again only when its token is sampled. A cycle therefore takes sum(t) when few are in flight and
    m * max(t) when enough are; each stage works m * t of it. Equal stages: max(0, 1 - m/p). Enough micro-batches:
    1 - mean(t)/max(t).
    """
    times = stage_times or [1.0] * stages
    cycle = max(sum(times), micro_batches * max(times))
    return 1 - micro_batches * sum(times) / (len(times) * cycle) if cycle > 0 else 0.0


def balancedness(loads: Sequence[float]) -> float | None:
    """Mean load over the largest, 1 is perfect; `None` without load (SGLang and EPLB's term for expert parallel ranks)."""
    largest = max(loads, default=0)
    return sum(loads) / len(loads) / largest if largest > 0 else None


def model_flops_utilization(flops: float, seconds: float, peak_flops: float, devices: int = 1) -> float:
    """MFU: FLOPs that the model needs / (time * peak of all devices), from 0 to 1 (PaLM, appendix B)."""
    return flops / (seconds * peak_flops * devices) if seconds > 0 else 0.0


def model_bandwidth_utilization(size: float, seconds: float, peak_bandwidth: float) -> float:
    """MBU: ((weight bytes + KV bytes) / time) / peak memory bandwidth, from 0 to 1 (Databricks, of one decode step: its TPOT).

    `size` of a mixture of experts counts the activated experts' weights only.
    """
    return size / seconds / peak_bandwidth if seconds > 0 else 0.0
