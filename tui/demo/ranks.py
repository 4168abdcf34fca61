"""The script's ranks: where their time went in the last ten seconds, what their memory holds, what their device says."""

from __future__ import annotations

from functools import lru_cache
from statistics import fmean
from typing import Any

from telemetry.records import DeviceRecord, Peaks, RankInfo
from telemetry.snapshot import AxisView, MemoryView, RankView, TimeSplit, WorkView
from tui.demo import story
from tui.demo.experts import FAN_OUT
from tui.demo.figures import expert_tokens
from tui.demo.pace import HIDDEN, LAYERS, Pace, all_reduces, all_to_alls, paces
from tui.demo.schedule import Script, Second, second_of, window

TOTAL = 141_000_000_000
PEAKS = Peaks(989e12, 4.8e12, "h200's data sheet", "nvlink", 450e9)
_USED = 134_500_000_000
WEIGHTS = 61_000_000_000  # of all ranks of a replica
_ACTIVATIONS, _WORKSPACE, _OTHER = 9_600_000_000, 2_900_000_000, 900_000_000
_CLOCK_MHZ, _SLOW_CLOCK_MHZ = 1755, 1095


def rank_view(script: Script, at: float, rank: int) -> RankView:
    """One rank at that second of the script."""
    moment = script.moment(at)
    info = rank_info(script, rank)
    state = story.state(moment)
    if state != "READY":
        return _starting(info, "DEAD" if state == "FAILED" and rank == story.HOT_RANK else state, moment, script)
    return RankView(
        **_measured(script, int(at), rank),
        info=info,
        state=state,
        memory=_memory(script),
        expert_tokens=expert_tokens(script, int(at), info.ep, info.first_layer, info.last_layer),
        steps=round(40 * moment),
        lost=0,
        age_s=0.1 if story.load(moment) else moment - story.ACTS["quiet"][0],
        device=_device(script, at, rank),
        work=_work(script, at, rank),
    )


def rank_info(script: Script, rank: int) -> RankInfo:
    at = script.layout.coordinates(rank)
    each = LAYERS // script.layout.pp
    last = LAYERS if at.pp == script.layout.pp - 1 else (at.pp + 1) * each
    return RankInfo(rank, *at, 4100 + rank, f"cuda:{rank}", at.pp * each, last - 1)


@lru_cache(maxsize=1024)
def _measured(script: Script, second: int, rank: int) -> dict[str, Any]:
    """What the steps of the last ten complete seconds tell."""
    layout = script.layout
    at = layout.coordinates(rank)
    done = window(script, second, at.dp)
    since = int(story.launched(script.moment(second))[0])
    history = tuple(_busy(script, earlier, rank) for earlier in range(max(0, second - min(60, since)), second))
    if not done.jobs:
        return {"util": history[-1] if history else None, "util_history": history, "axes": {}} | dict.fromkeys(
            ("bubble_pct", "step_ms", "compute_ms", "recv_wait_ms", "gap_ms", "tokens_per_s", "split")
        )
    pace = _pace(script, second - 1, rank)
    work, volume = done.work / done.jobs, done.volume / done.jobs
    recv, idle = 1e3 * done.waits[at.pp] / done.jobs, 1e3 * done.idle[at.pp] / done.jobs
    compute, step = work * pace.compute, pace.step(work, volume)
    wait = work * (pace.tp_wait + pace.ep_wait)
    whole = idle + pace.host + recv + step
    return {
        "util": history[-1],
        "util_history": history,
        "bubble_pct": 100 * (recv + idle) / whole,
        "step_ms": pace.host + recv + pace.step(1.0, 1.0),
        "compute_ms": compute,
        "recv_wait_ms": recv,
        "gap_ms": pace.host,
        "axes": _axes(script, second - 1, rank, done, pace),
        "tokens_per_s": (done.prefill + done.decode) / 10,
        "split": TimeSplit(
            compute=100 * compute / whole,
            transfer=100 * (step - compute - wait) / whole,
            wait=100 * wait / whole,
            stage=100 * (recv + idle) / whole,
            host=100 * pace.host / whole,
        ),
    }


def _pace(script: Script, second: int, rank: int) -> Pace:
    return paces(int(script.moment(second)), script.layout)[rank]


@lru_cache(maxsize=16_384)
def _busy(script: Script, second: int, rank: int) -> float:
    """Percent of that second in which the rank computed or moved bytes."""
    done, pace = second_of(script, second, script.layout.coordinates(rank).dp), _pace(script, second, rank)
    transfer = done.volume * (pace.tp_transfer + pace.ep_transfer) + done.jobs * pace.send
    return min(100.0, 0.1 * (done.work * pace.compute + transfer))


def _axes(script: Script, second: int, rank: int, done: Second, pace: Pace) -> dict[str, AxisView]:
    layout = script.layout
    work, volume = done.work / done.jobs, done.volume / done.jobs
    message = (done.prefill + done.decode) / done.jobs * HIDDEN * 2
    all_paces = paces(int(script.moment(second)), layout)

    def late(axis: str) -> float:
        waits = {peer: all_paces[peer].tp_wait if axis == "tp" else all_paces[peer].ep_wait for peer in layout.group(rank, axis)}
        return work * max(0.0, fmean(wait for peer, wait in waits.items() if peer != rank) - waits[rank])

    found: dict[str, AxisView] = {}
    if layout.tp > 1:
        calls = all_reduces(layout)
        found["tp"] = AxisView(calls, calls * message, work * pace.tp_wait, volume * pace.tp_transfer, late("tp"))
    if layout.ep > 1:
        calls = all_to_alls(layout)
        found["ep"] = AxisView(calls, calls * message * FAN_OUT, work * pace.ep_wait, volume * pace.ep_transfer, late("ep"))
    if pace.send:
        found["pp"] = AxisView(1, message, 0.0, pace.send)
    return found


def _memory(script: Script) -> MemoryView:
    weights = WEIGHTS // script.layout.replica_size
    return MemoryView(
        weights=weights,
        kv=_USED - weights - _ACTIVATIONS - _WORKSPACE - _OTHER,
        activations=_ACTIVATIONS,
        used=_USED,
        total=TOTAL,
        free=TOTAL - _USED,
        workspace=_WORKSPACE,
        other=_OTHER,
        peak=_USED + 1_200_000_000,
    )


def _device(script: Script, at: float, rank: int) -> DeviceRecord:
    moment = script.moment(at)
    load = story.load(moment)
    hot = story.during("throttled", moment) and rank == story.HOT_RANK % script.layout.world_size
    util = _busy(script, max(0, int(at) - 1), rank)
    links = 1.5e9 * (util if script.layout.world_size > 1 else 0.0)
    return DeviceRecord(
        rank=rank,
        generation=story.launched(moment)[1],
        time_ns=round(at * 1e9),
        cpu_percent=97.0,
        rss=3_900_000_000 + 7_000_000 * rank,
        gpu_util=util,
        gpu_memory_used=_USED,
        gpu_memory_total=TOTAL,
        power_w=400 + 240 * load,
        temperature_c=55 + 15 * load + (19 if hot else rank % 3),
        sm_clock_mhz=_SLOW_CLOCK_MHZ if hot else _CLOCK_MHZ,
        memory_clock_mhz=3201,
        power_limit_w=700.0,
        throttle=["SW thermal slowdown"] if hot else [],
        ecc_corrected=0,
        ecc_uncorrected=0,
        xid=0,
        pcie_tx=0.4e9 * load,
        pcie_rx=1.2e9 * load,
        nvlink_tx=links,
        nvlink_rx=links,
        sm_active=0.82 * util,
        tensor_active=0.21 * util,
        dram_active=0.74 * util,
        cpu_limit=64.0,
        memory_limit=1 << 40,
    )


def _work(script: Script, at: float, rank: int) -> WorkView:
    """Decoding: most of what the memory gives, little of what the tensor cores could."""
    util, seconds = _busy(script, max(0, int(at) - 1), rank), 30 * script.moment(at)
    flops, weights, kv = 0.0019 * util * PEAKS.flops, 0.0043 * util * PEAKS.bandwidth, 0.0021 * util * PEAKS.bandwidth
    counted = (round(seconds * rate) for rate in (flops, weights, kv))
    return WorkView(flops, weights, kv, 100 * flops / PEAKS.flops, 100 * (weights + kv) / PEAKS.bandwidth, *counted)


def _starting(info: RankInfo, state: str, moment: float, script: Script) -> RankView:
    """A rank that has not made a step yet: nothing but its memory is known."""
    since = story.launched(moment)[0]
    loaded = round(WEIGHTS / script.layout.replica_size * min(1.0, max(0.0, (since - 1.5) / 5.5)))
    figures = ("util", "bubble_pct", "step_ms", "compute_ms", "recv_wait_ms", "gap_ms", "tokens_per_s", "expert_tokens", "age_s")
    unknown: dict[str, Any] = dict.fromkeys(figures)
    return RankView(
        **unknown,
        info=info,
        state=state,
        util_history=(),
        axes={},
        memory=MemoryView(weights=loaded or None, used=loaded + 600_000_000, total=TOTAL),
        steps=0,
        lost=0,
    )
