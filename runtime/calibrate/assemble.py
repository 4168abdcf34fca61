"""What ranks found under each layout, made into the tables that the planner reads. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from runtime.layout import Layout

Found = Mapping[Layout, Sequence[Mapping[str, Any]]]  # by layout: by rank, one time that they measured after another
Points = list[list[float]]


def rates(found: Found, cores: int, step_s: float, turn_s: float, process_bytes: float) -> dict[str, Any]:
    """The `rates` of a calibration file, as `runtime.planner.machine.read_machine` reads them; `cores` 0: devices."""
    counts = sorted({layout.world_size for layout, ranks in found.items() if "products" in ranks[0]})
    parts = {str(count): _parts(found, count) for count in counts}
    if "layer_of_many" in found[Layout()][0]:  # ranks with a device each differ by what captures their steps, and by nothing else
        parts["2"] = {"together": _part([{**rank, "layer": rank["layer_of_many"]} for rank in found[Layout()]])}
    return {
        "cores": cores,
        "step_ms": step_s * 1e3,
        "turn_ms": turn_s * 1e3,
        "process_mib": process_bytes / 2**20,
        "hand_over_us": _hand_over(found),
        "crowd": _crowd(found, cores),
        "ranks": parts,
    }


def device(found: Found, memory: int, cores: int) -> dict[str, Any]:
    """The machine as an entry of data/gpus.json. Peak rates are those of many rows on all cores."""
    one = _part(found[Layout()])
    reduced = _exchange(found, "all_reduce")
    link = max((size / seconds / 1e9 for points in reduced.values() for size, seconds in points), default=one["copy_gb_s"])
    return {
        "memory_gib": memory / 2**30,
        "bandwidth_gb_s": one["read_gb_s"],
        "tflops": {form: 2 / (points[-1][1] / points[-1][0]) for form, points in one["products_ps"].items()},
        "link": "shm",
        "link_gb_s": link,
        "link_gpus": 1024,
        "node_gpus": 1024,
        "shared": cores > 0,
        "measured": {
            f"{name}_us": {str(n): _scaled(points, 1e6) for n, points in tables.items()}
            for name, tables in (("all_reduce", reduced), ("all_to_all", _exchange(found, "all_to_all")))
            if tables
        },
    }


def layer_s(found: Found) -> float:
    """Seconds of a layer of no size, for one row on all cores."""
    return _mean([rank["layer"][0][1] for rank in found[Layout()]])


def _parts(found: Found, count: int) -> dict[str, Any]:
    parts = {"together": _part(found[Layout(tp=count)])}
    if count > 1 and Layout(pp=count) in found:
        parts["alone"] = _part([rank for rank in found[Layout(pp=count)] if "products" in rank])  # the first stage's
    return parts


def _part(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    calls = _curves([rank["calls"] for rank in ranks])
    layer, moe_layer = (_curves([rank[name] for rank in ranks]) for name in ("layer", "moe_layer"))
    return {
        "read_gb_s": _mean([rank["read"] for rank in ranks]) / 1e9,
        "copy_gb_s": _mean([rank["copy"] for rank in ranks]) / 1e9,
        "products_ps": {
            form: _scaled(_curves([rank["products"][form] for rank in ranks if form in rank["products"]]), 1e12)
            for form in ranks[0]["products"]
        },
        "kv_gb_s": _scaled(_curves([rank["kv"] for rank in ranks]), 1e-9),
        "prompt_gflops": _scaled(_curves([rank["prompts"] for rank in ranks]), 1e-9),
        # a layer's products, two of them an expert's, are of some size
        "layer_us": _scaled(_with(layer, calls, 4), 1e6),
        "moe_layer_us": _scaled(_with(moe_layer, calls, 2), 1e6),
        "expert_us": (_mean([rank["expert"] for rank in ranks]) + 2 * calls[0][1]) * 1e6,
    }


def _with(points: Points, calls: Points, count: int) -> Points:
    return [[x, y + count * each] for (x, y), (_, each) in zip(points, calls, strict=True)]


def _exchange(found: Found, name: str) -> dict[int, Points]:
    """By ranks of a group; where these have all the cores that they ask for, if any group has."""
    known = {layout: [rank for rank in ranks if name in rank] for layout, ranks in found.items() if name in ranks[0]}
    calm = {layout: ranks for layout, ranks in known.items() if layout == Layout(tp=layout.tp)}
    tables = {layout.tp: _curves([rank[name] for rank in ranks]) for layout, ranks in (calm or known).items()}
    return dict(sorted(tables.items()))


def _hand_over(found: Found) -> Points:
    """Of two stages; the second one knows."""
    known = [rank["hand_over"] for rank in found.get(Layout(pp=2), ()) if rank.get("hand_over")]
    return _scaled(_curves(known), 1e6) if known else [[1024.0, 0.0]]


def _crowd(found: Found, cores: int) -> dict[str, float]:
    """Twice as many ranks as cores: how much longer a turn of a product and an exchange takes while half of them wait, and how
    much more than twice as long while all work."""
    layout = Layout(tp=max(2, cores), pp=2)
    if layout not in found or Layout(tp=layout.tp) not in found:
        return {"wait_us": 0.0, "loss": 1.0}
    calm, crowded = found[Layout(tp=layout.tp)], found[layout]
    exchange = _mean([rank["all_reduce"][0][1] for rank in calm])
    turn = _mean([_lap(rank["laps"]) for rank in calm])
    waiting = _mean([_lap(rank["laps"]) for rank in crowded if "laps" in rank])
    times = (crowded[first : first + layout.world_size] for first in range(0, len(crowded), layout.world_size))
    together = _mean([_together([rank["laps_together"] for rank in ranks]) for ranks in times])
    share = layout.world_size / max(1, cores)
    product = max(turn - exchange, 1e-9)
    return {"wait_us": max(0.0, waiting - turn) * 1e6, "loss": max(1.0, (together - exchange) / (share * product))}


def _together(laps: Sequence[Sequence[float]]) -> float:
    """Mean seconds of a lap while all ranks were at it."""
    start, end = max(each[0] for each in laps), min(each[-1] for each in laps)
    counts = [sum(start < at <= end for at in each) for each in laps]
    return (
        (end - start) / _mean([float(count) for count in counts]) if end > start and min(counts) else _mean(list(map(_lap, laps)))
    )


def _lap(times: Sequence[float]) -> float:
    return statistics.median(b - a for a, b in pairwise(times))


def _curves(curves: Sequence[Points]) -> Points:
    """The mean over ranks, point by point."""
    return [[points[0][0], _mean([y for _, y in points])] for points in zip(*curves, strict=True)]


def _scaled(points: Points, factor: float) -> Points:
    return [[x, y * factor] for x, y in points]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
