"""A snapshot as Prometheus text: vLLM's names where the meaning is the same, `shardscope_*` where it is ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from telemetry.snapshot import DeploymentView, EngineView, RankView, Snapshot

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4  # of what `render` returns

_VLLM_GAUGES: tuple[tuple[str, str, Callable[[EngineView], float | None]], ...] = (
    ("num_requests_running", "Requests in model execution batches.", lambda e: e.running),
    ("num_requests_waiting", "Requests waiting to be processed.", lambda e: e.waiting),
    (
        "kv_cache_usage_perc",
        "KV blocks that running requests hold, 1 is all; blocks that only cache a prefix count as free.",
        lambda e: e.kv_used / e.kv_total if e.kv_total else None,
    ),
)
_VLLM_COUNTERS: tuple[tuple[str, str, Callable[[EngineView], float]], ...] = (
    ("prompt_tokens", "Prefill tokens processed.", lambda e: e.prompt_tokens),
    ("generation_tokens", "Generation tokens produced.", lambda e: e.generated_tokens),
    ("num_preemptions", "Preemptions by the engine.", lambda e: e.preemptions),
    ("prefix_cache_queries", "Tokens looked up in the prefix cache.", lambda e: e.prefix_queries),
    ("prefix_cache_hits", "Tokens found in the prefix cache.", lambda e: e.prefix_hits),
)
_VLLM_HISTOGRAMS = {
    "time_to_first_token_seconds": "First token - arrival.",
    "request_time_per_output_token_seconds": "(Finish - first token) / (output tokens - 1).",
    "e2e_request_latency_seconds": "Finish - arrival.",
    "request_queue_time_seconds": "First scheduled - arrival.",
    "request_prefill_time_seconds": "First token - first scheduled.",
    "request_decode_time_seconds": "Finish - first token.",
}
_ENGINE_GAUGES: tuple[tuple[str, str, Callable[[EngineView], float | None]], ...] = (
    ("kv_blocks_used", "KV blocks that running requests hold.", lambda e: e.kv_used),
    ("kv_blocks_cached", "KV blocks that are free but hold a reusable prefix.", lambda e: e.kv_cached),
    ("kv_blocks", "KV blocks there are.", lambda e: e.kv_total),
    ("micro_batches_in_flight", "Micro-batches now in the pipeline.", lambda e: e.in_flight),
    ("generation_tokens_per_second", "Output tokens per second over the window.", lambda e: e.tokens_per_s),
)
_RANK_GAUGES: tuple[tuple[str, str, Callable[[RankView], float | None]], ...] = (
    (
        "utilization_ratio",
        "Share of the window in compute and transfer; waiting for other ranks is not busy.",
        lambda r: _share(r.util),
    ),
    (
        "bubble_ratio",
        "Idle share of the time in which the replica had work: waiting for the previous stage, or asked nothing.",
        lambda r: _share(r.bubble_pct),
    ),
    ("step_seconds", "Median wall time of a step over the window.", lambda r: _seconds(r.step_ms)),
    ("step_compute_seconds", "Mean time of a step in kernels that are no collectives.", lambda r: _seconds(r.compute_ms)),
    ("step_recv_wait_seconds", "Mean time of a step waiting for the previous stage.", lambda r: _seconds(r.recv_wait_ms)),
    ("step_host_gap_seconds", "Mean host time of a step without work on the device.", lambda r: _seconds(r.gap_ms)),
    ("rank_tokens_per_second", "Tokens that the rank's steps took in per second, prefill and decode.", lambda r: r.tokens_per_s),
    ("memory_used_bytes", "What the rank's process or device holds.", lambda r: r.memory.used),
    ("memory_weights_bytes", "Weights of the shard.", lambda r: r.memory.weights),
    ("memory_kv_bytes", "KV cache.", lambda r: r.memory.kv),
    ("process_cpu_ratio", "CPU of the rank's process, 1 is one core.", lambda r: _share(r.cpu_percent)),
    ("gpu_utilization_ratio", "Share of NVML's last period in which any kernel ran.", lambda r: _share(r.gpu_util)),
    ("gpu_power_watts", "Power draw of the rank's GPU.", lambda r: r.power_w),
    ("gpu_temperature_celsius", "Temperature of the rank's GPU.", lambda r: r.temperature_c),
    ("step_age_seconds", "Time since the end of the rank's last step.", lambda r: r.age_s),
)
_RANK_LABELS = ("deployment", "rank", "dp", "pp", "ep", "tp")
_STATES = ("STARTING", "READY", "RECONFIGURING", "DRAINING", "RESTARTING", "FAILED", "STOPPED")


def render(snapshot: Snapshot) -> bytes:
    """The text exposition (`CONTENT_TYPE`) of a snapshot. What is unavailable is absent, never 0."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SnapshotCollector(snapshot))
    return generate_latest(registry)


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        deployments = self._snapshot.deployments
        yield from _vllm(deployments)
        yield from _per_deployment(deployments)
        yield from _per_rank(deployments)
        yield CounterMetricFamily("shardscope_telemetry_lost", "Telemetry messages lost on their way.", value=self._snapshot.lost)
        yield CounterMetricFamily(
            "shardscope_telemetry_refused", "Telemetry that was not understood.", value=self._snapshot.refused
        )


def _vllm(deployments: tuple[DeploymentView, ...]) -> Iterator[Metric]:
    labels = ("model_name",)
    for name, text, get in _VLLM_GAUGES:
        yield _gauge(f"vllm:{name}", text, labels, (((d.name,), get(d.engine)) for d in deployments))
    for name, text, count in _VLLM_COUNTERS:
        counter = CounterMetricFamily(f"vllm:{name}", text, labels=labels)
        for d in deployments:
            counter.add_metric((d.name,), count(d.engine))
        yield counter
    success = CounterMetricFamily("vllm:request_success", "Finished requests.", labels=("model_name", "finished_reason"))
    for d in deployments:
        for reason, finished in sorted(d.engine.finished_by_reason.items()):
            success.add_metric((d.name, reason), finished)
    yield success
    for name, text in _VLLM_HISTOGRAMS.items():
        histogram = HistogramMetricFamily(f"vllm:{name}", text, labels=labels)
        for d in deployments:
            view = d.engine.histograms.get(name)
            if view is not None:
                bounds = [*(str(float(bound)) for bound in view.bounds), "+Inf"]
                histogram.add_metric((d.name,), list(zip(bounds, accumulate(view.counts), strict=True)), view.sum)
        yield histogram


def _per_deployment(deployments: tuple[DeploymentView, ...]) -> Iterator[Metric]:
    state = GaugeMetricFamily("shardscope_deployment_state", "1 for the state it is in.", labels=("deployment", "state"))
    for d in deployments:
        for name in _STATES:
            state.add_metric((d.name, name), float(d.state == name))
    yield state
    generations = (((d.name,), float(d.generation)) for d in deployments)
    yield _gauge("shardscope_deployment_generation", "Launches so far.", ("deployment",), generations)
    for name, text, get in _ENGINE_GAUGES:
        yield _gauge(f"shardscope_{name}", text, ("deployment",), (((d.name,), get(d.engine)) for d in deployments))


def _per_rank(deployments: tuple[DeploymentView, ...]) -> Iterator[Metric]:
    ranks = [(_rank_labels(d, r), r) for d in deployments for r in d.ranks]
    for name, text, get in _RANK_GAUGES:
        yield _gauge(f"shardscope_{name}", text, _RANK_LABELS, ((labels, get(r)) for labels, r in ranks))
    steps = CounterMetricFamily("shardscope_steps", "Steps of the rank in this generation.", labels=_RANK_LABELS)
    lost = CounterMetricFamily("shardscope_rank_telemetry_lost", "Messages of the rank that were lost.", labels=_RANK_LABELS)
    for labels, r in ranks:
        steps.add_metric(labels, r.steps)
        lost.add_metric(labels, r.lost)
    yield steps
    yield lost
    labels = (*_RANK_LABELS, "axis")
    for part, text in (("wait", "waiting for the group's last rank"), ("transfer", "moving bytes")):
        yield _gauge(
            f"shardscope_step_collective_{part}_seconds",
            f"Mean time of a step in the axis' collectives {text}.",
            labels,
            (((*at, axis), _seconds(getattr(v, f"{part}_ms"))) for at, r in ranks for axis, v in r.axes.items()),
        )


def _rank_labels(deployment: DeploymentView, rank: RankView) -> tuple[str, ...]:
    info = rank.info
    return (deployment.name, *(str(n) for n in (info.rank, info.dp, info.pp, info.ep, info.tp)))


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float | None]]) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=labels)
    for at, value in values:
        if value is not None:
            gauge.add_metric(at, value)
    return gauge


def _share(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3
