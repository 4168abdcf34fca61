"""The state of everything as one plain object: what `shardscope status --json` prints."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime.control import DaemonInfo
from telemetry.diagnosis import diagnose
from telemetry.snapshot import DeploymentView, RankView, Snapshot


def status_object(daemon: DaemonInfo, snapshot: Snapshot) -> dict[str, Any]:
    """JSON-ready. `None` is unavailable, 0 is 0; figures are over the last `window_s` seconds."""
    telemetry = {"telemetry_lost": snapshot.lost, "telemetry_readers": snapshot.readers}
    return {
        "daemon": {**msgspec.structs.asdict(daemon), "window_s": snapshot.window_s, **telemetry},
        "deployments": deployment_objects(snapshot),
    }


def deployment_objects(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The deployments alone."""
    return [_deployment(deployment, snapshot.window_s) for deployment in snapshot.deployments]


def _deployment(view: DeploymentView, window_s: float) -> dict[str, Any]:
    engine = view.engine
    return {
        "name": view.name,
        "state": view.state,
        "generation": view.generation,
        "model": view.model,
        "layout": view.layout,
        "device": view.device,
        "dtype": view.dtype,
        "emulated": view.emulated,
        "phase": view.phase,
        "progress": view.progress,
        "reason": view.reason,
        "engine": {
            "running": engine.running,
            "waiting": engine.waiting,
            "kv_used": engine.kv_used,
            "kv_cached": engine.kv_cached,
            "kv_total": engine.kv_total,
            "tokens_per_s": engine.tokens_per_s,
            "prompt_tokens_per_s": engine.prompt_tokens_per_s,
            "prompt_tokens": engine.prompt_tokens,
            "generated_tokens": engine.generated_tokens,
            "finished": engine.finished,
            "aborted": engine.aborted,
            "in_flight": engine.in_flight,
            "micro_batches": engine.micro_batches,
            "preempted": engine.preempted,
            "preemptions": engine.preemptions,
            "prefix_hit_rate": engine.prefix_hit_rate,
            "ttft_ms_p50": engine.ttft_ms_p50,
            "ttft_ms_p99": engine.ttft_ms_p99,
            "itl_ms_p50": engine.itl_ms_p50,
        },
        "ideal_bubble_pct": view.ideal_bubble_pct,
        "no_demand_pct": view.no_demand_pct,
        "mfu_pct": view.mfu_pct,
        "mbu_pct": view.mbu_pct,
        "peaks": None if view.peaks is None else msgspec.structs.asdict(view.peaks),
        "findings": [msgspec.to_builtins(finding) for finding in diagnose(view, window_s)],
        "collectives": [msgspec.to_builtins(kind) for kind in view.collectives],
        "experts": None if view.experts is None else msgspec.to_builtins(view.experts),
        "ranks": [_rank(rank) for rank in view.ranks],
    }


def _rank(view: RankView) -> dict[str, Any]:
    info = view.info
    return {
        "rank": info.rank,
        "dp": info.dp,
        "pp": info.pp,
        "ep": info.ep,
        "tp": info.tp,
        "pid": info.pid,
        "device": info.device,
        "layers": [info.first_layer, info.last_layer],
        "state": view.state,
        "util": view.util,
        "memory": msgspec.structs.asdict(view.memory),
        "bubble_pct": view.bubble_pct,
        "allreduce_ms": view.allreduce_ms,
        "step_ms": view.step_ms,
        "compute_ms": view.compute_ms,
        "recv_wait_ms": view.recv_wait_ms,
        "gap_ms": view.gap_ms,
        "split": None if view.split is None else msgspec.structs.asdict(view.split),
        "axes": {axis: msgspec.structs.asdict(times) for axis, times in view.axes.items()},
        "tokens_per_s": view.tokens_per_s,
        "work": None if view.work is None else msgspec.structs.asdict(view.work),
        "cpu_percent": view.cpu_percent,
        "gpu_util": view.gpu_util,
        "power_w": view.power_w,
        "temperature_c": view.temperature_c,
        "sensors": None if view.device is None else msgspec.to_builtins(view.device),
        "suspended_s": view.suspended_s,
        "steps": view.steps,
        "lost": view.lost,
        "age_s": view.age_s,
    }
