"""How long ranks take to exchange bytes: measured tables where there are any, scaled to the link; alpha-beta beyond them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

from runtime.planner.hardware import Gpu
from runtime.planner.names import load
from runtime.planner.parameters import Curve, curve, read_curve, scalar


class Exchange(NamedTuple):
    """Seconds of one collective: what it takes however few the bytes, and what the bytes add."""

    latency: float
    transfer: float


Table = dict[int, Curve]  # (bytes, seconds) by ranks

NOTHING = Exchange(0.0, 0.0)


@lru_cache(maxsize=1 << 16)
def all_reduce(gpu: Gpu, stack: str, ranks: int, size: float) -> Exchange:
    """All-reduce of `size` bytes over `ranks`, the wait for the slowest rank included.

    Over nodes: reduce-scatter and all-gather inside, a ring of every node's shares between: 2 (m-1)/m size/n bytes a device.
    """
    if ranks == 1:
        return NOTHING
    inside = min(ranks, gpu.link_gpus, gpu.node_gpus) if ranks > gpu.link_gpus else ranks
    near = _measured("all_reduce_us", stack, gpu, inside, size)
    skew = _skew(gpu, inside)
    nodes = -(-ranks // inside)
    if nodes == 1:
        return Exchange(near.latency + skew, near.transfer)
    far = 2 * (nodes - 1) / nodes * size / inside / gpu.network
    hops = 2 * math.ceil(math.log2(nodes)) * scalar("network_latency_us") * 1e-6
    return Exchange(near.latency + skew + hops, near.transfer + far)


def all_to_all(gpu: Gpu, ranks: int, size: float) -> Exchange:
    """All-to-all in which each of `ranks` sends `size` bytes in all, the wait for the slowest included."""
    return _spread("all_to_all_us", gpu, ranks, size)


def all_gather(gpu: Gpu, ranks: int, size: float) -> Exchange:
    """All-gather of `size` bytes in all, or a reduce-scatter of as many, the wait for the slowest included."""
    return _spread("all_gather_us", gpu, ranks, size)


@lru_cache(maxsize=1 << 16)
def _spread(kind: str, gpu: Gpu, ranks: int, size: float) -> Exchange:
    if ranks == 1:
        return NOTHING
    if gpu.machine is not None:
        kind = "all_to_all_us"  # the one of both that was measured here
    inside = min(ranks, gpu.link_gpus)
    near = _measured(kind, "", gpu, inside, size * inside / ranks)
    skew = _skew(gpu, inside)
    if inside == ranks:
        return Exchange(near.latency + skew, near.transfer)
    outside = size * (ranks - inside) / ranks / gpu.network
    return Exchange(near.latency + skew + scalar("network_latency_us") * 1e-6, near.transfer + outside)


def _skew(gpu: Gpu, ranks: int) -> float:
    """Seconds of waiting for the slowest. What was measured on this machine has it already."""
    return 0.0 if gpu.machine is not None else read_curve(curve("skew_us"), ranks) * 1e-6


def hand_over(gpu: Gpu, size: float, within_node: bool) -> Exchange:
    """A stage's output, sent to the next stage."""
    if gpu.machine is not None:
        return _read(gpu.machine.hand_over, size)
    return Exchange(scalar("hop_us") * 1e-6, size / (gpu.link_bandwidth if within_node else gpu.network))


def _measured(kind: str, stack: str, gpu: Gpu, ranks: int, size: float) -> Exchange:
    """Read a measured table, log-log between its points and at its last bandwidth beyond them.

    A device nobody measured reads the table of the one that stands for it, with bytes scaled by the ratio of their links.
    More ranks than measured: latency grows with log2, bytes with (n-1)/n.
    """
    if kind in gpu.measured:
        table, link = _points(gpu.measured[kind]), gpu.link_bandwidth
    else:
        table, link = _table(kind, stack, gpu.measured_as, gpu.link)
    known = sorted(table)
    low = max((n for n in known if n <= ranks), default=known[0])
    high = min((n for n in known if n >= ranks), default=known[-1])
    scaled = size * link / gpu.link_bandwidth
    first, second = _read(table[low], scaled), _read(table[high], scaled)
    if high != low:
        share = math.log(ranks / low) / math.log(high / low)
        return Exchange(
            first.latency + share * (second.latency - first.latency), first.transfer + share * (second.transfer - first.transfer)
        )
    if ranks > high:
        more = (1 - 1 / ranks) / (1 - 1 / high)
        return Exchange(second.latency * math.log2(ranks) / math.log2(high), second.transfer * more)
    return first


@cache
def _table(kind: str, stack: str, measured_as: str, link: str) -> tuple[Table, float]:
    """Points by ranks, in seconds, and the link they were measured on. Unmeasured: RTX PRO 6000 for PCIe, H100 for NVLink."""
    data: dict[str, Any] = load("parameters")[kind]
    gpus = load("gpus")
    if measured_as not in data or gpus[measured_as]["link"] != link:
        measured_as = "h100" if link == "nvlink" else "rtx-pro-6000"
    points = data[measured_as][stack] if stack else data[measured_as]
    return _points(points), float(gpus[measured_as]["link_gb_s"]) * 1e9


def _points(table: Mapping[str, Sequence[tuple[float, float]]]) -> Table:
    return {int(ranks): tuple((float(size), us * 1e-6) for size, us in rows) for ranks, rows in table.items()}


def _read(points: Curve, size: float) -> Exchange:
    """Latency is the smallest message's time; what a larger one takes more is transfer."""
    floor, (last, longest) = points[0][1], points[-1]
    if size <= points[0][0]:
        return Exchange(floor, 0.0)
    if size >= last:
        return Exchange(floor, longest * size / last - floor)
    i = bisect_left(points, (size,))
    (x0, y0), (x1, y1) = points[i - 1], points[i]
    time = y0 * (y1 / y0) ** (math.log(size / x0) / math.log(x1 / x0))
    return Exchange(floor, max(0.0, time - floor))
