"""The exposition is valid text whose samples are the snapshot's numbers."""

import math

import msgspec
import pytest
from handmade import MS, S, collective, deployment, engine, envelope, request, step
from prometheus_client.parser import text_string_to_metric_families

from telemetry.fold import Fold
from telemetry.prometheus import render
from telemetry.records import AxisTime, ExpertRecord, Peaks

T = 1000 * S
PARTS = ("compute", "transfer", "wait", "stage", "host")


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
    return values(fold.snapshot(T + 2 * S))


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


@pytest.fixture
def parallel():
    """Samples of a deployment with collectives, experts, lateness and gaps between tokens."""
    fold = Fold()
    records = [deployment(tp=2, ep=2), engine(T, running=0), engine(T + S, running=3, in_flight=2)]
    for i in range(1, 9):
        for rank in range(4):
            axes = {"tp": AxisTime(2, 100, (rank % 2) * 40 * MS, 10 * MS)}
            records.append(step(T + i * S, 300 * MS, rank=rank, number=i, gap=50 * MS, axes=axes))
            records.append(collective(T + i * S, rank, [rank % 2 * 4 * MS] * 10, [MS] * 10))
            records.append(ExpertRecord(rank, 1, T + (i - 1) * S, T + i * S, [0], [rank // 2], [[3000 if rank < 2 else 1000]]))
    records += [msgspec.structs.replace(request(T + S), gaps_ns=[4 * MS, 60 * MS])]
    for record in records:
        fold.add(envelope(record, sender="daemon"), T + 10 * S)
    return values(fold.snapshot(T + 10 * S))


def values(snapshot):
    return {
        (sample.name, *(v for _, v in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(render(snapshot).decode())
        for sample in family.samples
    }


def test_collectives_are_counters_by_op_and_gauges_by_size(parallel):
    at = ("tp", "demo", "all_reduce")  # axis, deployment, op
    assert parallel["shardscope_collective_calls_total", *at] == 320
    assert parallel["shardscope_collective_bytes_total", *at] == 320 * 4096
    assert parallel["shardscope_collective_wait_seconds_total", *at] == pytest.approx(160 * 0.004)
    assert parallel["shardscope_collective_transfer_seconds_total", *at] == pytest.approx(320 * 0.001)
    assert parallel["shardscope_collective_bus_bandwidth_bytes_per_second", *at, "4096"] == pytest.approx(4096 / 0.001)
    assert parallel["shardscope_collective_seconds", "tp", "demo", "all_reduce", "0.99", "4096"] == pytest.approx(0.005, rel=0.1)


def test_counters_of_collectives_survive_a_relaunch():
    fold = Fold()
    for record in (deployment(tp=2), collective(T, 0, [5], [5]), deployment(tp=2, generation=2)):
        fold.add(envelope(record, sender="daemon"), T + 10 * S)
    assert values(fold.snapshot(T + S))["shardscope_collective_calls_total", "tp", "demo", "all_reduce"] == 1


def test_where_the_time_goes_and_who_is_late(parallel):
    rank = ("demo", "0", "0", "0", "0", "0")
    parts = [parallel["shardscope_time_ratio", "demo", "0", "0", part, "0", "0", "0"] for part in PARTS]
    assert sum(parts) == pytest.approx(1)
    assert parallel["shardscope_step_late_seconds", "tp", *rank] == pytest.approx(0.04)


def test_utilization_where_the_devices_peaks_are_known():
    told = msgspec.structs.replace(deployment(tp=2), peaks=Peaks(1e12, 1e9, "h200"))
    counted = msgspec.structs.replace(step(T, S), flops=10**11, weight_bytes=10**8, kv_bytes=10**8)
    for record, known in ((told, True), (deployment(tp=2), False)):
        fold = Fold()
        fold.add(envelope(record, engine(T), counted, sender="daemon"), T + S)
        samples = values(fold.snapshot(T + S))
        rank = ("demo", "0", "0", "0", "0", "0")
        assert samples["shardscope_model_flops_total", *rank] == 1e11
        assert samples["shardscope_model_weight_bytes_total", *rank] == samples["shardscope_model_kv_bytes_total", *rank] == 1e8
        shares = {
            key: value for key, value in samples.items() if "utilization" in key[0] and key[0].startswith("shardscope_model")
        }
        assert list(shares.values()) == (pytest.approx([0.1, 0.2, 0.1, 0.2]) if known else [])


def test_experts_demand_and_findings(parallel):
    assert parallel["shardscope_expert_balance_ratio", "demo"] == pytest.approx(2 / 3)
    assert parallel["shardscope_expert_hottest_ratio", "demo"] == pytest.approx(0.75)
    assert parallel["shardscope_micro_batches", "demo"] == 2
    assert parallel["shardscope_no_demand_ratio", "demo"] == pytest.approx(0.1)
    assert parallel["shardscope_finding", "demo", "straggler", "warning"] == 1


def test_opentelemetrys_names(parallel):
    labels = ("text_completion", "shardscope", "demo")
    first = "gen_ai_server_time_to_first_token_seconds"
    assert parallel[f"{first}_count", *labels] == 1
    assert parallel[f"{first}_bucket", "text_completion", "shardscope", "demo", "10.0"] == 1
    assert (f"{first}_bucket", *labels, "20.0") not in parallel  # vLLM's buckets go on
    assert parallel["gen_ai_server_request_duration_seconds_bucket", *labels, "0.16"] == 0
    assert parallel["gen_ai_server_request_duration_seconds_bucket", *labels, "0.32"] == 1
    assert parallel["gen_ai_server_time_per_output_token_seconds_sum", *labels] == pytest.approx(0.01)


def test_gaps_between_tokens(parallel):
    assert parallel["vllm:inter_token_latency_seconds_count", "demo"] == 2
    assert parallel["vllm:inter_token_latency_seconds_sum", "demo"] == pytest.approx(0.064)


def test_labels_are_bounded_whatever_senders_claim():
    fold = Fold()
    fold.add(envelope(deployment(tp=2), sender="daemon"), T)
    for i in range(3000):
        noise = collective(T - i, i % 2, [i], [i], op=f"op{i}", axis=f"axis{i % 50}", size=1 << i % 60)
        axes = {f"axis{i}": AxisTime(1, 1, 1, 1)}
        fold.add(envelope(noise, step(T - S, MS, rank=i % 2, axes=axes), request(T, reason=f"because{i}")), T)
    lines = render(fold.snapshot(T)).decode().splitlines()
    assert len(lines) < 1500


def test_every_metric_says_what_it_is():
    families = list(text_string_to_metric_families(render(Fold().snapshot(T)).decode()))
    assert len(families) > 60
    assert all(len(family.documentation) > 10 for family in families)
