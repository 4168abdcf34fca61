"""What a rank's memory holds, part by part, and whether it fits: yes, tightly, or no with the smallest change that does."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from runtime.kv_capacity import cpu_cache_bytes, cuda_cache_bytes, useful_blocks
from runtime.planner.hardware import GIB, Cluster, Gpu
from runtime.planner.models import Model
from runtime.planner.names import load
from runtime.planner.parameters import Engine, Format, curve, find_format, read_curve, scalar
from runtime.planner.sharding import Sharding, broken_rules, stage_split


@dataclass(frozen=True)
class Precision:
    """Formats by part. `attention` differs from `weights` where a recipe quantises the experts alone; `plain` is what no recipe
    quantises: embedding, head, router, norms, activations between layers."""

    weights: Format
    attention: Format
    kv: Format
    plain: Format


@lru_cache(maxsize=256)
def precision(model: Model, weights: str, kv: str) -> Precision:
    """The formats of a model at `weights`; `kv` may be `same`: 8 bits when the weights are quantised, or `plain`."""
    form, rule = find_format(weights), load("parameters")["quantised_parts"]
    experts_only = form.name in rule["experts_only"] or model.family in rule["experts_only_families"]
    quantised = form.bytes < 2
    plain = find_format("bf16") if quantised else form
    attention = plain if experts_only and form.name in rule["for_formats"] else form
    cache = {"same": "fp8" if quantised else plain.name, "plain": plain.name}.get(kv, kv)
    return Precision(form, attention, find_format(cache), plain)


def cache_format(kv: str, weights: str) -> str:
    """The `kv` that an engine chooses by itself: TensorRT-LLM's fp8 recipes quantise the cache too; 16-bit weights keep a 16-bit
    cache everywhere."""
    return "same" if kv != "plain" and find_format(weights).bytes >= 2 else kv


@dataclass(frozen=True)
class Memory:
    """Bytes of the fullest rank, by part; `kv` is what is left for the cache."""

    weights: float
    activations: float
    context: float  # driver, libraries, communicators, captured graphs; on CPU the process itself
    kv: float
    kv_token: float  # bytes of one token on that rank
    reserved: float  # of the device, not ours to fill
    total: float

    @property
    def kv_tokens(self) -> int:
        """Tokens that the cache of one attention group holds."""
        return int(self.kv / self.kv_token + 1e-6) if self.kv_token else 0

    def parts(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    word: str  # "fits", "tight", "no"
    reason: str
    change: str = ""  # the smallest that fits, when it does not


def stage_weights(model: Model, sharding: Sharding, form: Precision, layers: int) -> float:
    """Bytes of so many layers on one rank. Norms, biases and the router stay plain."""
    s, weights = sharding, form.weights.bytes
    moe = layers * model.moe_layers / model.layers
    experts = -(-model.experts // s.ep) * model.expert(s.etp) if model.experts else 0
    attention = layers * model.attention(s.tp) * form.attention.bytes
    mlp = (layers - moe) * model.mlp(s.tp) * weights + moe * (experts + model.shared(s.tp)) * weights
    return attention + mlp + (moe * model.router + layers * model.small / model.layers) * form.plain.bytes


def rank_weights(model: Model, sharding: Sharding, form: Precision, stages: str = "even") -> float:
    """Bytes of weights on the fullest rank; `stages`: how the engine cuts layers."""
    return max(weights for weights, _ in stage_parts(model, sharding, form, stages))


def stage_parts(model: Model, sharding: Sharding, form: Precision, stages: str) -> list[tuple[float, int]]:
    """(bytes of weights on one rank, layers) of the stages that may be the fullest: the first has the embedding, the last the
    head.

    The vocabulary is padded to 64 t rows; a tied embedding is stored twice when the stages that need it differ.
    """
    s = sharding
    vocab = -(-model.vocab // (64 * s.tp)) * 64 * model.hidden * form.plain.bytes
    if s.pp == 1:
        return [(stage_weights(model, s, form, model.layers) + vocab * (1 if model.tied else 2), model.layers)]
    inner, last = stage_split(model, s.pp, stages)
    return [(vocab + stage_weights(model, s, form, layers), layers) for layers in (inner, last)]


def rank_memory(model: Model, sharding: Sharding, gpu: Gpu, form: Precision, engine: Engine) -> Memory:
    """The memory of the rank that holds the fewest tokens, which all others must go by.

    KV capacity = share x total - weights - activations - context (vLLM), the same without the context, which no allocator
    knows of (ours), or share x (what all of them leave) (TensorRT-LLM). On CPU ranks share what the machine has left, and the
    cache takes no more than the runtime's own rule allows. A stage holds the cache of every request in flight, for its layers.
    """
    activations, context = _work_space(model, sharding, form, engine, gpu)
    found = []
    for weights, layers in stage_parts(model, sharding, form, engine.stages):
        kv_token = layers * model.kv_elements(sharding.tp) * form.kv.bytes
        total = gpu.memory / sharding.ranks if gpu.shared else gpu.memory
        taken = weights + activations + context
        if engine.cache_bytes is not None:
            kv = _blocks(engine.cache_bytes, kv_token, engine, model)
        elif gpu.shared:
            free = gpu.memory - all_weights(model, sharding, form) - sharding.ranks * context
            kv = _blocks(cpu_cache_bytes(max(0.0, free), sharding.ranks), kv_token, engine, model)
        elif engine.share_of == "allocator":
            kv = _blocks(cuda_cache_bytes(gpu.memory, engine.memory_share, weights + activations), kv_token, engine, model)
        elif engine.share_of == "total":
            kv = engine.memory_share * total - taken
        else:
            kv = engine.memory_share * (total - taken)
        kv = max(0.0, min(kv, total - taken))
        found.append(Memory(weights, activations, context, kv, kv_token, total - taken - kv, total))
    return min(found, key=lambda memory: memory.kv / memory.kv_token if memory.kv_token else 0.0)


def _work_space(model: Model, sharding: Sharding, form: Precision, engine: Engine, gpu: Gpu) -> tuple[float, float]:
    """Activations of the largest step, and what a process holds whatever it does."""
    s, tokens = sharding, engine.max_batched_tokens
    coefficient = read_curve(curve("activation_by_tp"), s.tp) * (scalar("activation_moe") if model.experts else 1)
    logits = tokens // 8 * model.vocab * 4 / s.tp
    activations = max(scalar("activation_floor_gib") * GIB, tokens * model.hidden * coefficient * form.plain.bytes) + logits
    if s.attention_dp > 1:
        activations += tokens * model.experts_per_token * model.hidden * form.weights.activation_bytes
    if gpu.shared:
        return activations, gpu.machine.process if gpu.machine is not None else scalar("cpu_process_gib") * GIB
    context = scalar("cuda_context_gib") + scalar("graphs_gib") + (scalar("nccl_gib") if s.replica_ranks > 1 else 0)
    return activations, context * GIB


def all_weights(model: Model, sharding: Sharding, form: Precision) -> float:
    """Bytes of weights on all ranks together."""
    s = sharding
    vocab = -(-model.vocab // (64 * s.tp)) * 64 * model.hidden * form.plain.bytes
    stages = stage_weights(model, s, form, model.layers) + vocab * (1 if model.tied and s.pp == 1 else 2)
    return s.dp * s.stage_ranks * stages


def _blocks(room: float, kv_token: float, engine: Engine, model: Model) -> float:
    """Bytes of whole blocks that sequences can use: no more than they can fill, less the one that belongs to none."""
    block = engine.block * kv_token
    useful = useful_blocks(engine.max_num_seqs, model.max_position, engine.block)
    return max(0, min(useful, int(room // block)) - 1) * block


def sequences(model: Model, memory: Memory, engine: Engine, isl: float, osl: float) -> float:
    """Requests that one attention group can hold at once: by input and output reserved, or by the mean they grow to.

    Windowed layers keep only their window.
    """
    tokens = isl + (osl if engine.reserve == "full" else osl / 2)
    kept = model.remembered(tokens) / tokens if tokens else 1.0
    return memory.kv / (memory.kv_token * max(1.0, tokens) * kept)


def verdict(
    model: Model,
    sharding: Sharding,
    cluster: Cluster,
    form: Precision,
    engine: Engine,
    isl: int,
    osl: int,
    wanted: float,
    memory: Memory | None = None,
) -> Verdict:
    """Does it fit? *tight* when it runs but holds fewer requests than wanted, or leaves the device nearly full."""
    memory = memory or rank_memory(model, sharding, cluster.gpu, form, engine)
    holds = sequences(model, memory, engine, isl, osl)
    longest = memory.kv_tokens
    if sequences(model, memory, replace(engine, reserve="full"), isl, osl) < 1:
        taken = memory.weights + memory.activations + memory.context
        short = f"weights {memory.weights / GIB:.1f} + work space {(taken - memory.weights) / GIB:.1f}"
        reason = f"{short} of {memory.total / GIB:.1f} GiB leave {longest:,} tokens of cache; one request needs {isl + osl:,}"
        return Verdict("no", reason, smallest_change(model, sharding, cluster, form, engine, isl, osl))
    group = wanted / sharding.dp / sharding.attention_dp
    if holds < group:
        return Verdict("tight", f"the cache holds {holds:.0f} of {group:.0f} requests at once; the others wait")
    if memory.kv < scalar("tight_headroom") * memory.total:
        return Verdict("tight", f"only {memory.kv / GIB:.1f} GiB are left for the cache")
    return Verdict("fits", f"cache for {holds:.0f} requests of {isl + osl:,} tokens")


def smallest_change(
    model: Model, sharding: Sharding, cluster: Cluster, form: Precision, engine: Engine, isl: int, osl: int
) -> str:
    """The first change, in order of what it costs, under which one request fits: cache format, replicas, weight format, GPUs."""

    def fits(candidate: Sharding, weights: str, kv: str) -> bool:
        if broken_rules(candidate, model, find_format(weights)):
            return False
        changed = rank_memory(model, candidate, cluster.gpu, precision(model, weights, kv), engine)
        return changed.kv_tokens >= isl + osl

    now, kv = form.weights.name, form.kv.name
    if kv != "fp8" and fits(sharding, now, "fp8"):
        return "an fp8 cache"
    for factor in (2, 4, 8, 16, 32, 64):
        for axis in ("tp", "pp"):
            if sharding.dp % factor == 0:
                wider = replace(sharding, **{axis: getattr(sharding, axis) * factor, "dp": sharding.dp // factor})
                if sharding.ep == sharding.stage_ranks > 1 and engine.name != "shardscope":  # ours spreads over its ep axis alone
                    wider = replace(wider, ep=wider.stage_ranks)
                if fits(wider, now, kv):
                    return f"{wider} on the same {cluster.gpus} GPUs"
    for smaller in ("fp8", "int4"):
        if find_format(smaller).bytes < form.weights.bytes and fits(sharding, smaller, kv):
            return f"{smaller} weights"
    for factor in (2, 4, 8, 16, 32, 64):
        for axis in ("tp", "pp"):
            wider = replace(sharding, **{axis: getattr(sharding, axis) * factor, "dp": 1})
            if wider.ranks > cluster.gpus and fits(wider, now, kv):
                return f"{wider} on {wider.ranks} GPUs"
    return "a GPU with more memory"
