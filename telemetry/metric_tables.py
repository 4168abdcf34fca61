"""What each metric is called, means and reads: names of vLLM and OpenTelemetry where the meaning is theirs, our own else."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Generic, NamedTuple, TypeVar

from telemetry.snapshot import AxisView, DeploymentView, EngineView, RankView, WorkView

Of = TypeVar("Of")


class Metric(NamedTuple, Generic[Of]):
    """`read`: the value, `None` where it is unavailable."""

    name: str
    help: str
    read: Callable[[Of], float | None]


class OTelHistogram(NamedTuple):
    """A GenAI metric of OpenTelemetry in its Prometheus form, its buckets the first `bounds` of one of `histograms.BOUNDS`."""

    name: str
    help: str
    source: str
    bounds: int


def share(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def _device(name: str, scale: float = 1.0) -> Callable[[RankView], float | None]:
    def read(rank: RankView) -> float | None:
        value = None if rank.device is None else getattr(rank.device, name)
        return None if value is None else scale * value

    return read


def _throttled(rank: RankView) -> float | None:
    if rank.device is None or rank.device.throttle is None:
        return None
    return float(any("idle" not in reason.lower() for reason in rank.device.throttle))


VLLM_GAUGES: tuple[Metric[EngineView], ...] = (
    Metric("num_requests_running", "Requests in model execution batches.", lambda e: e.running),
    Metric("num_requests_waiting", "Requests waiting to be processed.", lambda e: e.waiting),
    Metric(
        "kv_cache_usage_perc",
        "KV blocks that running requests hold, 1 is all; blocks that only cache a prefix count as free.",
        lambda e: e.kv_used / e.kv_total if e.kv_total else None,
    ),
)
VLLM_COUNTERS: tuple[Metric[EngineView], ...] = (
    Metric("prompt_tokens", "Prefill tokens processed.", lambda e: e.prompt_tokens),
    Metric("generation_tokens", "Generation tokens produced.", lambda e: e.generated_tokens),
    Metric("num_preemptions", "Preemptions by the engine.", lambda e: e.preemptions),
    Metric("prefix_cache_queries", "Tokens looked up in the prefix cache.", lambda e: e.prefix_queries),
    Metric("prefix_cache_hits", "Tokens found in the prefix cache.", lambda e: e.prefix_hits),
)
VLLM_HISTOGRAMS = {
    "time_to_first_token_seconds": "First token - arrival.",
    "inter_token_latency_seconds": "Between two tokens of a request.",
    "request_time_per_output_token_seconds": "(Finish - first token) / (output tokens - 1).",
    "e2e_request_latency_seconds": "Finish - arrival.",
    "request_queue_time_seconds": "First scheduled - arrival.",
    "request_prefill_time_seconds": "First token - first scheduled.",
    "request_decode_time_seconds": "Finish - first token.",
}
OTEL_HISTOGRAMS = (  # semantic conventions v1.41; names by the Prometheus compatibility specification, buckets as advised there
    OTelHistogram(
        "gen_ai_server_request_duration_seconds",
        "Finish - arrival (gen_ai.server.request.duration).",
        "request_duration_seconds",
        14,
    ),
    OTelHistogram(
        "gen_ai_server_time_to_first_token_seconds",
        "First token - arrival (gen_ai.server.time_to_first_token).",
        "time_to_first_token_seconds",
        16,
    ),
    OTelHistogram(
        "gen_ai_server_time_per_output_token_seconds",
        "(Finish - first token) / (output tokens - 1) (gen_ai.server.time_per_output_token).",
        "request_time_per_output_token_seconds",
        13,
    ),
)
ENGINE_GAUGES: tuple[Metric[EngineView], ...] = (
    Metric("kv_blocks_used", "KV blocks that running requests hold.", lambda e: e.kv_used),
    Metric("kv_blocks_cached", "KV blocks that are free but hold a reusable prefix.", lambda e: e.kv_cached),
    Metric("kv_blocks", "KV blocks there are.", lambda e: e.kv_total),
    Metric("micro_batches_in_flight", "Micro-batches now in the pipeline.", lambda e: e.in_flight),
    Metric(
        "micro_batches", "Micro-batches that a replica with work kept in flight, mean over the window.", lambda e: e.micro_batches
    ),
    Metric("generation_tokens_per_second", "Output tokens per second over the window.", lambda e: e.tokens_per_s),
)
DEPLOYMENT_GAUGES: tuple[Metric[DeploymentView], ...] = (
    Metric("deployment_generation", "Launches so far.", lambda d: d.generation),
    Metric(
        "bubble_ideal_ratio",
        "Idle share that theory leaves even stages with the micro-batches in flight: compare with shardscope_bubble_ratio.",
        lambda d: share(d.ideal_bubble_pct),
    ),
    Metric(
        "bubble_mean_ratio",
        "shardscope_bubble_ratio, mean over ranks.",
        lambda d: share(fmean(shares)) if (shares := [r.bubble_pct for r in d.ranks if r.bubble_pct is not None]) else None,
    ),
    Metric("model_flops_utilization_mean_ratio", "MFU of the ranks with work, their mean.", lambda d: share(d.mfu_pct)),
    Metric("model_bandwidth_utilization_mean_ratio", "MBU of the ranks with work, their mean.", lambda d: share(d.mbu_pct)),
    Metric(
        "no_demand_ratio", "Share of the window in which replicas had no request: no bubble.", lambda d: share(d.no_demand_pct)
    ),
)
RANK_GAUGES: tuple[Metric[RankView], ...] = (
    Metric(
        "utilization_ratio",
        "Share of the window in compute and transfer; waiting for other ranks is not busy.",
        lambda r: share(r.util),
    ),
    Metric(
        "bubble_ratio",
        "Idle share of the time in which the replica had work: waiting for the previous stage, or asked nothing.",
        lambda r: share(r.bubble_pct),
    ),
    Metric("step_seconds", "Median wall time of a step over the window.", lambda r: seconds(r.step_ms)),
    Metric("step_compute_seconds", "Mean time of a step in kernels that are no collectives.", lambda r: seconds(r.compute_ms)),
    Metric("step_recv_wait_seconds", "Mean time of a step waiting for the previous stage.", lambda r: seconds(r.recv_wait_ms)),
    Metric("step_host_gap_seconds", "Mean host time of a step without work on the device.", lambda r: seconds(r.gap_ms)),
    Metric(
        "rank_tokens_per_second", "Tokens that the rank's steps took in per second, prefill and decode.", lambda r: r.tokens_per_s
    ),
    Metric("memory_used_bytes", "What the rank's process or device holds.", lambda r: r.memory.used),
    Metric("memory_peak_bytes", "The most that it held.", lambda r: r.memory.peak),
    Metric("memory_free_bytes", "What it may still take.", lambda r: r.memory.free),
    Metric("memory_weights_bytes", "Weights of the shard.", lambda r: r.memory.weights),
    Metric("memory_kv_bytes", "KV cache of the shard.", lambda r: r.memory.kv),
    Metric("memory_activations_bytes", "The most that forward passes held.", lambda r: r.memory.activations),
    Metric("memory_workspace_bytes", "Packed copies, communication buffers, captured graphs.", lambda r: r.memory.workspace),
    Metric("memory_other_bytes", "Interpreter, libraries, CUDA context.", lambda r: r.memory.other),
    Metric("process_cpu_ratio", "CPU of the rank's process, 1 is one core.", lambda r: share(r.cpu_percent)),
    Metric("gpu_utilization_ratio", "Share of NVML's last period in which any kernel ran.", lambda r: share(r.gpu_util)),
    Metric("gpu_power_watts", "Power draw of the rank's GPU.", lambda r: r.power_w),
    Metric("gpu_temperature_celsius", "Temperature of the rank's GPU.", lambda r: r.temperature_c),
    Metric("gpu_sm_clock_hertz", "SM clock of the rank's GPU.", _device("sm_clock_mhz", 1e6)),
    Metric("gpu_memory_clock_hertz", "Memory clock of the rank's GPU.", _device("memory_clock_mhz", 1e6)),
    Metric("gpu_throttled", "1 when something but idleness holds the clock down.", _throttled),
    Metric("gpu_ecc_uncorrected", "Uncorrected ECC errors since the driver was loaded.", _device("ecc_uncorrected")),
    Metric("gpu_xid", "Last XID error, 0 for none.", _device("xid")),
    Metric("gpu_sm_active_ratio", "Share of cycles in which SMs had work (GPM).", _device("sm_active", 0.01)),
    Metric("gpu_tensor_active_ratio", "Share of cycles in which tensor cores worked (GPM).", _device("tensor_active", 0.01)),
    Metric("gpu_dram_active_ratio", "Share of cycles in which memory moved data (GPM).", _device("dram_active", 0.01)),
    Metric("gpu_pcie_transmit_bytes_per_second", "From the GPU over PCIe.", _device("pcie_tx")),
    Metric("gpu_pcie_receive_bytes_per_second", "To the GPU over PCIe.", _device("pcie_rx")),
    Metric("gpu_nvlink_transmit_bytes_per_second", "From the GPU over all NVLinks.", _device("nvlink_tx")),
    Metric("gpu_nvlink_receive_bytes_per_second", "To the GPU over all NVLinks.", _device("nvlink_rx")),
    Metric("step_age_seconds", "Time since the end of the rank's last step.", lambda r: r.age_s),
)
WORK_GAUGES: tuple[Metric[WorkView], ...] = (
    Metric(
        "model_flops_utilization_ratio",
        "FLOPs that the model needs / (time with work * the device's peak).",
        lambda w: share(w.mfu_pct),
    ),
    Metric(
        "model_bandwidth_utilization_ratio",
        "(Weights + KV that a step has to move) / (time with work * the peak of the device's memory).",
        lambda w: share(w.mbu_pct),
    ),
)
WORK_COUNTERS: tuple[Metric[WorkView], ...] = (
    Metric("model_flops", "FLOPs that the model needed of the rank, in this generation.", lambda w: w.flops),
    Metric("model_weight_bytes", "Weights that the rank's steps had to read, in this generation.", lambda w: w.weight_bytes),
    Metric("model_kv_bytes", "Keys and values that they had to read and write, in this generation.", lambda w: w.kv_bytes),
)
AXIS_GAUGES: tuple[Metric[AxisView], ...] = (
    Metric(
        "step_collective_wait_seconds",
        "Mean time of a step in the axis' collectives waiting for the group's last rank.",
        lambda a: seconds(a.wait_ms),
    ),
    Metric(
        "step_collective_transfer_seconds",
        "Mean time of a step in the axis' collectives moving bytes.",
        lambda a: seconds(a.transfer_ms),
    ),
    Metric(
        "step_late_seconds",
        "How long the others of the group waited for this rank, mean over joined steps; 0 to who is never last.",
        lambda a: seconds(a.late_ms),
    ),
)
