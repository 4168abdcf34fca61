"""The exposition is valid text whose samples are the snapshot's numbers."""

import math

import pytest
from handmade import MS, S, deployment, engine, envelope, request, step
from prometheus_client.parser import text_string_to_metric_families

from telemetry.fold import Fold
from telemetry.prometheus import render
from telemetry.records import AxisTime

T = 1000 * S


@pytest.fixture
def samples():
    fold = Fold()
    records = [
        deployment(tp=2),
        engine(T, running=0),
        engine(T + S, running=3, waiting=2, kv_used=16, generated=50, prompt_tokens=70, preemptions=4),
        step(T, 300 * MS, gap=200 * MS, axes={"tp": AxisTime(2, 100, 200 * MS, 300 * MS)}),
        request(T + S, ttft_ms=90),
        request(T + S, ttft_ms=300_000_000, reason="length"),
    ]
    for record in records:
        fold.add(envelope(record, sender="daemon"), T + 2 * S)
    text = render(fold.snapshot(T + 2 * S)).decode()
    return {
        (sample.name, *(v for _, v in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_vllm_names(samples):
    assert samples["vllm:num_requests_running", "demo"] == 3
    assert samples["vllm:num_requests_waiting", "demo"] == 2
    assert samples["vllm:kv_cache_usage_perc", "demo"] == 0.25
    assert samples["vllm:prompt_tokens_total", "demo"] == 70
    assert samples["vllm:generation_tokens_total", "demo"] == 50
    assert samples["vllm:num_preemptions_total", "demo"] == 4
    assert samples["vllm:request_success_total", "stop", "demo"] == 1
    assert samples["vllm:request_success_total", "length", "demo"] == 1


def test_histograms_accumulate(samples):
    name = "vllm:time_to_first_token_seconds"
    assert samples[f"{name}_bucket", "0.08", "demo"] == 0
    assert samples[f"{name}_bucket", "0.1", "demo"] == 1
    assert samples[f"{name}_bucket", "2560.0", "demo"] == 1
    assert samples[f"{name}_bucket", "+Inf", "demo"] == samples[f"{name}_count", "demo"] == 2
    assert samples[f"{name}_sum", "demo"] == pytest.approx(300_000.09)


def test_ranks_by_their_place_and_nothing_that_is_unavailable(samples):
    rank = ("demo", "0", "0", "0", "0", "0")  # deployment, dp, ep, pp, rank, tp
    assert samples["shardscope_step_compute_seconds", *rank] == pytest.approx(0.3)
    assert samples["shardscope_utilization_ratio", *rank] == pytest.approx(0.6)
    assert samples["shardscope_steps_total", *rank] == 1
    assert samples["shardscope_step_collective_wait_seconds", "tp", *rank] == pytest.approx(0.2)
    assert samples["shardscope_deployment_state", "demo", "READY"] == 1
    assert samples["shardscope_deployment_state", "demo", "FAILED"] == 0
    assert not [key for key in samples if key[0] == "shardscope_gpu_power_watts"]
    assert all(math.isfinite(value) for value in samples.values())


def test_an_empty_daemon_has_metrics_too():
    names = {family.name for family in text_string_to_metric_families(render(Fold().snapshot(T)).decode())}
    assert "shardscope_telemetry_lost" in names
