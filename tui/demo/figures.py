"""The script's deployments as a whole: queues and latencies, collectives, experts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from statistics import fmean

from runtime.layout import Layout
from telemetry.formulas import bubble_steady_decode, bus_bandwidth
from telemetry.snapshot import CollectiveView, EngineView, ExpertsView
from tui.demo import story
from tui.demo.experts import FAN_OUT, experts_view
from tui.demo.pace import CHUNK, HIDDEN, PREFILL_VOLUME, PREFILL_WORK, SEND_MS, Pace, all_reduces, all_to_alls, paces
from tui.demo.schedule import MOST_RUNNING, Script, Second, micro_batches, second_of, window

WINDOW_S = 10.0
_BLOCKS = 10_240
_TOKENS_PER_S = 1_300  # about, for counters
_NOISY = 1.35  # p99 of a transfer over its median


def engine(script: Script, at: float) -> EngineView:
    """The queues of all replicas."""
    moment = script.moment(at)
    ready = story.state(moment) == "READY"
    load = story.load(moment)
    crowd = ready and story.during("crowd", moment)
    since = int(story.launched(moment)[0] - story.LAUNCH_S) if ready else 0
    seconds = range(max(0, int(at) - min(60, since)), int(at))
    history = tuple(_generated(script, second) for second in seconds)
    rate = fmean(history[-10:]) if history and load else 0.0
    running = max(1, round(MOST_RUNNING * load)) if load else 0
    itl = 1e3 * running / history[-1] if history and history[-1] and load else None
    return EngineView(
        running=running,
        waiting=21 if crowd else max(0, round(30 * (load - 0.85))),
        kv_used=round((0.985 if crowd else 0.93 * load) * _BLOCKS),
        kv_cached=round(1_100 * (1 - load)) if ready else 0,
        kv_total=_BLOCKS if ready else 0,
        tokens_per_s=rate,
        prompt_tokens_per_s=_prompt(script, at) if load else 0.0,
        tokens_history=history,
        prompt_tokens=round(3 * _TOKENS_PER_S * moment),
        generated_tokens=round(_TOKENS_PER_S * moment),
        finished=round(5.8 * moment),
        aborted=0,
        preemptions=2 if moment > 98 else 0,
        prefix_hit_rate=0.38 if ready else None,
        ttft_ms_p50=(138.0 + 90 * load) * (4 if crowd else 1) if load else None,
        ttft_ms_p99=(301.0 + 200 * load) * (5 if crowd else 1) if load else None,
        itl_ms_p50=itl,
        itl_ms_p99=1.6 * itl if itl else None,
        in_flight=micro_batches(script, moment) * script.layout.dp,
        micro_batches=float(micro_batches(script, moment)) if load else None,
        preempted=2.0 if crowd and moment >= 98 else 0.0,
        steps=round(40 * moment),
        prefix_queries=round(3 * _TOKENS_PER_S * moment),
        prefix_hits=round(0.38 * 3 * _TOKENS_PER_S * moment),
        finished_by_reason={"stop": round(3.9 * moment), "length": round(5.8 * moment) - round(3.9 * moment)},
    )


def no_demand(script: Script, at: float) -> float:
    """Percent of the window without a request."""
    seconds = range(max(0, int(at) - 10), int(at))
    return 100 * fmean(story.during("quiet", script.moment(second)) for second in seconds) if seconds else 0.0


def ideal_bubble(script: Script, at: float) -> float | None:
    count = micro_batches(script, script.moment(at))
    return 100 * bubble_steady_decode(script.layout.pp, count) if count and script.layout.pp > 1 else None


@lru_cache(maxsize=8)
def experts(script: Script, second: int) -> ExpertsView | None:
    """Of the mixture of experts, as soon as it took tokens."""
    if not script.name.startswith("qwen"):
        return None
    done = [window(script, second, replica) for replica in range(script.layout.dp)]
    tokens = script.layout.ep * sum(one.prefill + one.decode for one in done)
    if not tokens or story.state(script.moment(second)) != "READY":
        return None
    return experts_view(tokens, script.layout.ep, story.hot_experts(script.moment(second)))


@lru_cache(maxsize=256)
def expert_tokens(script: Script, second: int, member: int, first_layer: int, last_layer: int) -> tuple[int, ...] | None:
    """By expert of that member of the ep axis, the layers summed: what one replica's took."""
    view = experts(script, second)
    if view is None:
        return None
    rows = [row for layer, row in zip(view.layers, view.tokens, strict=True) if first_layer <= layer <= last_layer]
    totals = [sum(column) // script.layout.dp for column in zip(*rows, strict=True)]
    return tuple(count for count, owner in zip(totals, view.owners, strict=True) if owner == member)


def collectives(script: Script, at: float) -> tuple[CollectiveView, ...]:
    """By axis, op and size class, of the last ten seconds."""
    moment = script.moment(at)
    done = window(script, at, 0)
    if story.state(moment) != "READY" or not done.jobs:
        return ()
    found = paces(int(moment), script.layout)
    rows = [*_ep(script, done, found), *_pp(script, done, found), *_tp(script, done, found)]
    return tuple(row for row in rows if row.calls_per_s > 0)


def _kinds(done: Second) -> Iterator[tuple[float, float, float, float]]:
    """Decode and prefill steps: how many a second, tokens, work and volume of one."""
    decodes = done.jobs - done.prefills
    tokens = done.decode / done.jobs
    yield decodes / WINDOW_S, tokens, 1.0, 1.0
    yield done.prefills / WINDOW_S, tokens + CHUNK, PREFILL_WORK, PREFILL_VOLUME


def _tp(script: Script, done: Second, found: tuple[Pace, ...]) -> Iterator[CollectiveView]:
    calls = all_reduces(script.layout)
    for steps, tokens, work, volume in _kinds(done):
        if calls:
            waits = [1e3 * work * pace.tp_wait / calls for pace in found]
            transfer = 1e3 * volume * found[0].tp_transfer / calls
            yield _row(script.layout, "tp", "all_reduce", script.layout.tp, calls * steps, tokens * HIDDEN * 2, waits, transfer)


def _ep(script: Script, done: Second, found: tuple[Pace, ...]) -> Iterator[CollectiveView]:
    calls = all_to_alls(script.layout)
    for steps, tokens, work, volume in _kinds(done):
        if calls:
            waits = [1e3 * work * pace.ep_wait / calls for pace in found]
            transfer = 1e3 * volume * found[0].ep_transfer / calls
            size = tokens * HIDDEN * 2 * FAN_OUT * script.layout.ep
            yield _row(script.layout, "ep", "all_to_all", script.layout.ep, calls * steps, size, waits, transfer)


def _pp(script: Script, done: Second, found: tuple[Pace, ...]) -> Iterator[CollectiveView]:
    for steps, tokens, _, volume in _kinds(done):
        if script.layout.pp > 1:
            yield _row(script.layout, "pp", "send", 2, steps, tokens * HIDDEN * 2, [0.0] * len(found), 1e3 * SEND_MS * volume)


def _row(
    layout: Layout, axis: str, op: str, members: int, rate: float, size: float, waits: list[float], transfer: float
) -> CollectiveView:
    groups = {layout.group(rank, axis) for rank in range(layout.world_size)}
    found = {rank: fmean(waits[peer] for peer in group if peer != rank) - waits[rank] for group in groups for rank in group}
    last = max(found, key=lambda rank: (found[rank], rank))
    late = found[last]
    straggler = last if late > transfer / 4 else None
    return CollectiveView(
        axis=axis,
        op=op,
        size_class=max(0, round(size) - 1).bit_length(),
        members=members,
        calls_per_s=rate,
        bytes=size,
        wait_us=fmean(waits),
        transfer_us=transfer,
        p50_us=transfer + sorted(waits)[len(waits) // 2],
        p99_us=_NOISY * transfer + 1.2 * max(waits),
        wait_p99_us=1.2 * max(waits),
        algorithm_bandwidth=size / transfer * 1e6 if transfer else None,
        bus_bandwidth=bus_bandwidth(op, size, transfer / 1e6, members) if transfer else None,
        straggler=straggler,
        late_us=late if straggler is not None else None,
    )


def _generated(script: Script, second: int) -> float:
    layout = script.layout
    return float(layout.ep * sum(second_of(script, second, replica).decode for replica in range(layout.dp)))


def _prompt(script: Script, at: float) -> float:
    layout = script.layout
    return layout.ep * sum(window(script, at, replica).prefill for replica in range(layout.dp)) / WINDOW_S
