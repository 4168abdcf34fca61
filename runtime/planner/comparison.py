"""What the planner says of a running deployment beside what its ranks tell, term by term. Pure, but for `known_of`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runtime.layout import Layout
from runtime.planner.calibration import Calibration
from runtime.planner.cost import Setup
from runtime.planner.hardware import GIB, Cluster, Gpu
from runtime.planner.local import CPU, find_device, local_gpu
from runtime.planner.memory import Memory, precision, rank_memory
from runtime.planner.models import Model, find_model
from runtime.planner.parameters import Engine, find_engine, scalar
from runtime.planner.serving import Prediction, Workload, predict
from runtime.planner.sharding import Sharding
from telemetry.snapshot import DeploymentView, EngineView, RankView

FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Known:
    """What a comparison needs besides the deployment: it does not change while a generation lives."""

    model: Model
    gpu: Gpu
    calibration: Calibration


@dataclass(frozen=True)
class Compared:
    """One term. `None`: nothing is predicted of it, or nobody measures it (now)."""

    name: str
    unit: str
    predicted: float | None
    measured: float | None

    @property
    def off(self) -> float | None:
        """Relative error of the prediction, with its sign."""
        if self.predicted is None or not self.measured:
            return None
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Comparison:
    """`words`: the load it is predicted for, or why there is none; `state`: how the prediction was calibrated."""

    rows: tuple[Compared, ...]
    words: str
    state: str


def known_of(deployment: DeploymentView, gpu: str | None = None) -> Known:
    """Reads the model's config, the calibration of this machine, and asks the driver. `gpu`: by name, where it is not this one's.

    Raises PlanError.
    """
    here = CPU if deployment.device == "cpu" else (local_gpu() or "local")
    device, known = find_device(gpu or ("local" if here != CPU else CPU))
    return Known(find_model(deployment.model), device, known)


def predicted_and_measured(deployment: DeploymentView, known: Known, settings: Mapping[str, Any] | None = None) -> Comparison:
    """Milliseconds are of one rank in one step, the mean over ranks; TPOT is of requests that ended in the window.

    The load is what runs now: its contexts by the cache it holds, its prompts by their share of the tokens. `settings`: fields of
    its DeploymentSpec, where they are not the defaults.
    """
    engine = _engine(settings or {})
    model = replace(known.model, max_position=int((settings or {}).get("max_model_len") or known.model.max_position))
    layout = Layout(**{axis: deployment.layout.get(axis, 1) for axis in ("dp", "pp", "ep", "tp")})
    sharding = Sharding.of(layout)
    gpu = _before_loading(known.gpu, deployment.ranks)
    form = precision(model, FORMATS.get(deployment.dtype, "bf16"), "plain")
    setup = Setup(model, sharding, Cluster(gpu, layout.world_size), form, engine, known.calibration.scale)
    memory = rank_memory(model, sharding, gpu, form, engine)
    load = load_of(deployment.engine, engine.block)
    found = None if load is None else predict(setup, load, memory)
    rows = (*_steps(deployment, found), *_service(deployment.engine, found), *_memory(deployment, memory, setup))
    words = "nothing runs: speed is predicted for a load" if load is None else _load_words(load)
    return Comparison(rows, words, _state(known.calibration))


def load_of(engine: EngineView, block: int) -> Workload | None:
    """What runs now; None when nothing does.

    Mean context c = ISL + OSL/2 and, by the rates of prompt and output tokens, ISL = r OSL.
    """
    if not engine.running:
        return None
    context = max(2.0, engine.kv_used * block / engine.running)
    ratio = engine.prompt_tokens_per_s / engine.tokens_per_s if engine.tokens_per_s else 1.0
    osl = max(1.0, context / (ratio + 0.5))
    return Workload(max(1.0, ratio * osl), osl, concurrency=engine.running + engine.waiting, text=False)


def _engine(settings: Mapping[str, Any]) -> Engine:
    engine = find_engine("shardscope")
    return replace(
        engine,
        max_batched_tokens=int(settings.get("max_num_batched_tokens") or engine.max_batched_tokens),
        memory_share=float(settings.get("gpu_memory_utilization") or engine.memory_share),
        max_num_seqs=int(settings.get("max_num_seqs") or engine.max_num_seqs),
        block=int(settings.get("block_size") or engine.block),
        cache_bytes=settings.get("kv_cache_bytes"),
    )


def _before_loading(gpu: Gpu, ranks: Iterable[RankView]) -> Gpu:
    """On CPU: with the memory that the ranks hold now, which was free when they asked for it."""
    if not gpu.shared:
        return gpu
    held = sum((rank.memory.weights or 0) + (rank.memory.kv or 0) for rank in ranks)
    return replace(gpu, memory=gpu.memory + held)


def _steps(deployment: DeploymentView, found: Prediction | None) -> Iterable[Compared]:
    ranks, pp = deployment.ranks, deployment.layout.get("pp", 1)

    def said(*terms: str) -> float | None:
        return None if found is None else sum(float(getattr(found.step, term)) for term in terms) * 1e3 / pp

    def axis(name: str) -> float | None:
        return mean(rank.axes[name].wait_ms + rank.axes[name].transfer_ms for rank in ranks if name in rank.axes)

    yield Compared("weights", "ms", said("weights"), None)
    yield Compared("KV cache", "ms", said("kv"), None)
    yield Compared("products", "ms", said("compute"), None)
    yield Compared("launches", "ms", said("launch"), None)
    host = mean(rank.gap_ms for rank in ranks)
    compute = mean(rank.compute_ms for rank in ranks)
    together = None if compute is None else compute + (host or 0.0)
    yield Compared("all of these", "ms", said("weights", "kv", "compute", "launch"), together)
    if deployment.layout.get("tp", 1) > 1:
        yield Compared("all-reduce", "ms", said("all_reduce"), axis("tp"))
    if deployment.layout.get("ep", 1) > 1:
        yield Compared("all-to-all", "ms", said("all_to_all"), axis("ep"))
    if pp > 1:
        yield Compared("hand-over", "ms", said("hand_over"), axis("pp"))
        bubble = mean(rank.bubble_pct for rank in ranks)
        yield Compared("bubble", "%", None if found is None else 100 * found.bubble, bubble)


def _service(engine: EngineView, found: Prediction | None) -> Iterable[Compared]:
    yield Compared("TPOT", "ms", None if found is None else found.tpot * 1e3, engine.itl_ms_p50)
    yield Compared("TTFT", "ms", None if found is None else found.ttft * 1e3, engine.ttft_ms_p50)
    yield Compared("output", "tok/s", None if found is None else found.tokens_s, engine.tokens_per_s if found else None)


def _memory(deployment: DeploymentView, memory: Memory, setup: Setup) -> Iterable[Compared]:
    """Of the fullest rank. On CPU a process holds what it has touched: of the cache, the blocks that were ever used."""
    kept, engine, s = [rank.memory for rank in deployment.ranks], deployment.engine, setup.sharding
    # blocks that sequences can use, all groups together
    capacity = engine.kv_total * setup.engine.block / (s.dp * s.attention_dp) if engine.kv_total else None
    touched, process = 1.0, memory.context
    if setup.gpu.shared:
        touched = min(1.0, (engine.kv_used + engine.kv_cached) / engine.kv_total) if engine.kv_total else 0.0
        process = scalar("cpu_resident_gib") * GIB
    kv = touched * memory.kv
    yield Compared("KV capacity", "tokens", float(memory.kv_tokens), capacity)
    yield Compared("weights, a rank", "GiB", memory.weights / GIB, most(each.weights for each in kept))
    yield Compared("KV cache, a rank", "GiB", kv / GIB, most(each.kv for each in kept))
    used = memory.weights + kv + memory.activations + process
    yield Compared("memory, a rank", "GiB", used / GIB, most(each.used for each in kept))


def _load_words(load: Workload) -> str:
    return f"{load.concurrency:.0f} requests of {load.isl:.0f} tokens in and {load.osl:.0f} out, as it runs now"


def _state(calibration: Calibration) -> str:
    band = f"+-{calibration.band('tpot_ms'):.0%}"
    return f"calibrated on {calibration.machine} ({band})" if calibration.calibrated else f"uncalibrated ({band})"


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def most(values: Iterable[int | None]) -> float | None:
    """In GiB."""
    known = [value for value in values if value is not None]
    return max(known) / GIB if known else None
