"""A snapshot as Prometheus text: vLLM's names where the meaning is the same, OpenTelemetry's for GenAI servers, ours else.

OpenTelemetry's metrics are on the same page, under the names and labels that its specification of Prometheus compatibility gives
them, so a collector's Prometheus receiver takes them back. Labels are bounded: whatever senders claim, the fold keeps so many
deployments, ranks, axes, ops and size classes and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from telemetry.diagnosis import diagnose
from telemetry.diagnosis.figures import expert_balance
from telemetry.metric_tables import (
    AXIS_GAUGES,
    DEPLOYMENT_GAUGES,
    ENGINE_GAUGES,
    OTEL_HISTOGRAMS,
    RANK_GAUGES,
    VLLM_COUNTERS,
    VLLM_GAUGES,
    VLLM_HISTOGRAMS,
    WORK_COUNTERS,
    WORK_GAUGES,
    share,
)
from telemetry.snapshot import CollectiveTotal, CollectiveView, DeploymentView, HistogramView, RankView, Snapshot

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4  # of what `render` returns

_RANK_LABELS = ("deployment", "rank", "dp", "pp", "ep", "tp")
_STATES = ("STARTING", "READY", "RECONFIGURING", "DRAINING", "RESTARTING", "FAILED", "STOPPED")
_PARTS = ("compute", "transfer", "wait", "stage", "host")

Views = tuple[DeploymentView, ...]


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
        yield from _otel(deployments)
        yield from _per_deployment(deployments, self._snapshot.window_s)
        yield from _collectives(deployments)
        yield from _per_rank(deployments)
        if (readers := self._snapshot.readers) is not None:
            yield GaugeMetricFamily("shardscope_telemetry_readers", "Who listen to single records now.", value=readers)
        yield CounterMetricFamily("shardscope_telemetry_lost", "Telemetry messages lost on their way.", value=self._snapshot.lost)
        yield CounterMetricFamily(
            "shardscope_telemetry_refused", "Telemetry that was not understood.", value=self._snapshot.refused
        )


def _vllm(deployments: Views) -> Iterator[Metric]:
    labels = ("model_name",)
    for metric in VLLM_GAUGES:
        values = (((d.name,), metric.read(d.engine)) for d in deployments)
        yield _gauge(f"vllm:{metric.name}", metric.help, labels, values)
    for metric in VLLM_COUNTERS:
        values = (((d.name,), metric.read(d.engine)) for d in deployments)
        yield _counter(f"vllm:{metric.name}", metric.help, labels, values)
    finished = (((d.name, why), n) for d in deployments for why, n in sorted(d.engine.finished_by_reason.items()))
    yield _counter("vllm:request_success", "Finished requests.", ("model_name", "finished_reason"), finished)
    for name, text in VLLM_HISTOGRAMS.items():
        histogram = HistogramMetricFamily(f"vllm:{name}", text, labels=labels)
        for d in deployments:
            if (view := d.engine.histograms.get(name)) is not None:
                histogram.add_metric((d.name,), *_cumulated(view, len(view.bounds)))
        yield histogram


def _otel(deployments: Views) -> Iterator[Metric]:
    labels = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
    for metric in OTEL_HISTOGRAMS:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=labels)
        for d in deployments:
            if (view := d.engine.histograms.get(metric.source)) is not None:
                histogram.add_metric(("text_completion", "shardscope", d.name), *_cumulated(view, metric.bounds))
        yield histogram


def _cumulated(view: HistogramView, bounds: int) -> tuple[list[tuple[str, float]], float]:
    """(bucket, observations up to it) for the first `bounds` and for all; the sum."""
    counts = list(accumulate(view.counts))
    buckets = [(str(float(bound)), float(count)) for bound, count in zip(view.bounds[:bounds], counts, strict=False)]
    return [*buckets, ("+Inf", float(counts[-1]))], view.sum


def _per_deployment(deployments: Views, window_s: float) -> Iterator[Metric]:
    states = (((d.name, name), float(d.state == name)) for d in deployments for name in _STATES)
    yield _gauge("shardscope_deployment_state", "1 for the state it is in.", ("deployment", "state"), states)
    for of_deployment in DEPLOYMENT_GAUGES:
        values = (((d.name,), of_deployment.read(d)) for d in deployments)
        yield _gauge(f"shardscope_{of_deployment.name}", of_deployment.help, ("deployment",), values)
    for of_engine in ENGINE_GAUGES:
        values = (((d.name,), of_engine.read(d.engine)) for d in deployments)
        yield _gauge(f"shardscope_{of_engine.name}", of_engine.help, ("deployment",), values)
    balances = [(d.name, found) for d in deployments if (found := expert_balance(d)) is not None]
    text = "Mean over max of the tokens of ep members, 1 is perfect, mean over layers."
    yield _gauge("shardscope_expert_balance_ratio", text, ("deployment",), (((name,), b.balance) for name, b in balances))
    text = "Share of its layer's tokens that the hottest expert takes."
    yield _gauge("shardscope_expert_hottest_ratio", text, ("deployment",), (((name,), b.share) for name, b in balances))
    findings = {(d.name, one.kind, one.severity): 1.0 for d in deployments for one in diagnose(d, window_s)}
    yield _gauge("shardscope_finding", "1 for what the diagnosis finds.", ("deployment", "kind", "severity"), findings.items())


def _collectives(deployments: Views) -> Iterator[Metric]:
    totals = [((d.name, total.axis, total.op), total) for d in deployments for total in d.collective_totals]
    for name, text, field in (
        ("collective_calls", "Collective calls of all ranks.", "calls"),
        ("collective_bytes", "Bytes of all calls, as nccl-tests counts them.", "bytes"),
        ("collective_wait_seconds", "Time of all ranks waiting for the last one, as transports tell it.", "wait_s"),
        ("collective_transfer_seconds", "Time of all ranks from the last one's arrival to the end.", "transfer_s"),
    ):
        yield _counter(f"shardscope_{name}", text, ("deployment", "axis", "op"), _fields(totals, field))
    kinds = [((d.name, kind.axis, kind.op, str(1 << kind.size_class)), kind) for d in deployments for kind in d.collectives]
    labels = ("deployment", "axis", "op", "size")  # messages of at most so many bytes, and more than half
    for name, text, field in (
        ("collective_algorithm_bandwidth_bytes_per_second", "Bytes / transfer time over the window.", "algorithm_bandwidth"),
        ("collective_bus_bandwidth_bytes_per_second", "The same by the busiest link's load (nccl-tests).", "bus_bandwidth"),
    ):
        yield _gauge(f"shardscope_{name}", text, labels, _fields(kinds, field))
    durations = (
        ((*at, quantile), None if us is None else us / 1e6)
        for at, kind in kinds
        for quantile, us in (("0.5", kind.p50_us), ("0.99", kind.p99_us))
    )
    yield _gauge(
        "shardscope_collective_seconds", "Wait and transfer of a call over the window.", (*labels, "quantile"), durations
    )


def _fields(
    of: Iterable[tuple[tuple[str, ...], CollectiveTotal | CollectiveView]], field: str
) -> Iterator[tuple[tuple[str, ...], float | None]]:
    return ((at, getattr(view, field)) for at, view in of)


def _per_rank(deployments: Views) -> Iterator[Metric]:
    ranks = [(_rank_labels(d, r), r) for d in deployments for r in d.ranks]
    for metric in RANK_GAUGES:
        yield _gauge(f"shardscope_{metric.name}", metric.help, _RANK_LABELS, ((at, metric.read(r)) for at, r in ranks))
    steps = ((at, r.steps) for at, r in ranks)
    yield _counter("shardscope_steps", "Steps of the rank in this generation.", _RANK_LABELS, steps)
    lost = ((at, r.lost) for at, r in ranks)
    yield _counter("shardscope_rank_telemetry_lost", "Messages of the rank that were lost.", _RANK_LABELS, lost)
    text = "Where the rank's time with work went over the window; the parts sum to 1."
    parts = (((*at, part), share(getattr(r.split, part))) for at, r in ranks if r.split for part in _PARTS)
    yield _gauge("shardscope_time_ratio", text, (*_RANK_LABELS, "part"), parts)
    works = [(at, r.work) for at, r in ranks if r.work is not None]
    for of_work in WORK_GAUGES:
        yield _gauge(f"shardscope_{of_work.name}", of_work.help, _RANK_LABELS, ((at, of_work.read(w)) for at, w in works))
    for of_work in WORK_COUNTERS:
        yield _counter(f"shardscope_{of_work.name}", of_work.help, _RANK_LABELS, ((at, of_work.read(w)) for at, w in works))
    for of_axis in AXIS_GAUGES:
        values = (((*at, axis), of_axis.read(view)) for at, r in ranks for axis, view in r.axes.items())
        yield _gauge(f"shardscope_{of_axis.name}", of_axis.help, (*_RANK_LABELS, "axis"), values)


def _rank_labels(deployment: DeploymentView, rank: RankView) -> tuple[str, ...]:
    info = rank.info
    return (deployment.name, *(str(n) for n in (info.rank, info.dp, info.pp, info.ep, info.tp)))


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float | None]]) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=labels)
    for at, value in values:
        if value is not None:
            gauge.add_metric(at, value)
    return gauge


def _counter(name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float | None]]) -> Metric:
    counter = CounterMetricFamily(name, text, labels=labels)
    for at, value in values:
        if value is not None:
            counter.add_metric(at, value)
    return counter
