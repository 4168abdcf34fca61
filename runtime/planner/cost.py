"""What one step costs a rank, term by term. All times are seconds; all sizes are of one rank.

Every term is linear in the layers, so a layer is costed once and a stage or a whole pass is a multiple of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from runtime.planner.collectives import NOTHING, Exchange, all_reduce, all_to_all, hand_over
from runtime.planner.hardware import Cluster, Gpu
from runtime.planner.memory import Precision
from runtime.planner.models import Model
from runtime.planner.parameters import Engine, Grouped, Rates, Scale, curve, grouped, rates, read_curve, scalar
from runtime.planner.sharding import Sharding


class Terms(NamedTuple):
    """Seconds by what takes them."""

    weights: float = 0.0
    kv: float = 0.0
    compute: float = 0.0
    all_reduce: float = 0.0
    all_to_all: float = 0.0
    hand_over: float = 0.0
    launch: float = 0.0

    @property
    def total(self) -> float:
        return sum(self)

    def times(self, factor: float) -> Terms:
        w, k, c, r, a, h, n = self
        return Terms(factor * w, factor * k, factor * c, factor * r, factor * a, factor * h, factor * n)

    @staticmethod
    def sum(parts: Iterable[Terms]) -> Terms:
        return Terms(*map(sum, zip(*parts, strict=True)))

    @property
    def limit(self) -> str:
        """The term that takes longest."""
        return max(self._fields, key=lambda name: float(getattr(self, name)))


class Work(NamedTuple):
    """What a step carries, for each attention group: tokens that continue at `context` tokens, and `prompt` tokens of prompts
    that look back `reach` in the mean. Only that `share` of the groups has a prompt; all wait for the ones that do."""

    decodes: float
    context: float
    prompt: float = 0.0
    reach: float = 0.0
    share: float = 1.0

    @property
    def rows(self) -> float:
        return self.decodes + self.prompt


class Step(NamedTuple):
    """A micro-batch's way through all stages, and the stage that the others wait for."""

    whole: Terms
    stage: Terms


@dataclass(frozen=True)
class Setup:
    """A model on devices under a layout: everything a step's cost depends on except the step."""

    model: Model
    sharding: Sharding
    cluster: Cluster
    form: Precision
    engine: Engine
    scale: Scale = field(default_factory=Scale)

    @property
    def gpu(self) -> Gpu:
        return self.cluster.gpu

    @cached_property
    def body(self) -> _Body:
        return _Body.of(self)


@dataclass(frozen=True)
class _Body:
    """Sizes and rates of one layer, the mean over dense and mixture layers, worked out once a setup."""

    attention: int  # parameters on this rank
    plain: float  # share of layers with a plain MLP
    mlp: int
    shared: int
    expert: int  # one expert's share
    experts: float  # held by this rank
    attention_rates: Rates
    weight_rates: Rates
    head_rates: Rates
    mlp_width: float
    kv_bytes: float  # of one token in one layer
    kernels: float
    grouped: Grouped

    @classmethod
    def of(cls, setup: Setup) -> _Body:
        model, s, form, gpu = setup.model, setup.sharding, setup.form, setup.gpu
        moe = model.moe_layers / model.layers
        kernels = (1 - moe) * scalar("kernels_dense_layer") + moe * scalar("kernels_moe_layer")
        width = (1 - moe) * model.intermediate / s.tp + moe * model.shared_intermediate / s.tp
        return cls(
            attention=model.attention(s.tp),
            plain=1 - moe,
            mlp=model.mlp(s.tp),
            shared=model.shared(s.tp),
            expert=model.expert(s.etp) if model.experts else 0,
            experts=model.experts / s.ep,
            attention_rates=rates(gpu, form.attention),
            weight_rates=rates(gpu, form.weights),
            head_rates=rates(gpu, form.plain),
            mlp_width=width,
            kv_bytes=model.kv_elements(s.tp) * form.kv.bytes,
            kernels=kernels,
            grouped=grouped(gpu, form.weights, setup.engine.all_reduce),
        )


def layer_terms(setup: Setup, work: Work) -> Terms:
    """One mean layer.

    Matrices of one kind share their rows, so they cost as one: reading takes params x bytes / (BW eta_m), multiplying
    2 rows params / (F eta_c), together their p-norm.
    """
    model, s, body, scale = setup.model, setup.sharding, setup.body, setup.scale
    rows = work.rows
    tokens = (work.decodes + work.share * work.prompt) * s.attention_dp  # of the stage
    weights, compute = _matmul(setup, rows, body.attention, body.attention * setup.form.attention.bytes, body.attention_rates)
    if body.plain:
        w, c = _matmul(setup, rows, body.mlp, body.mlp * setup.form.weights.bytes, body.weight_rates)
        weights, compute = weights + body.plain * w, compute + body.plain * c
    exchange = NOTHING
    if body.plain < 1:
        w, c = _experts(setup, rows, tokens)
        weights, compute = weights + (1 - body.plain) * w, compute + (1 - body.plain) * c
        exchange = _dispatch_and_combine(setup, rows)
    moved = scalar("elementwise_hidden") * model.hidden + scalar("elementwise_wide") * body.mlp_width
    compute += rows * moved * setup.form.plain.bytes / setup.gpu.bandwidth * scale.compute
    kv = _decode_attention(setup, work) + _prompt_attention(setup, work)
    reduced = all_reduce(setup.gpu, setup.engine.all_reduce, s.tp, rows * model.hidden * setup.form.plain.bytes)
    a2a = (1 - body.plain) * _seconds(exchange, scale)
    launch = (body.kernels * scalar("kernel_us") * 1e-6 + (1 - body.plain) * body.grouped.overhead) * scale.kernel
    return Terms(weights, kv, compute, 2 * _seconds(reduced, scale), a2a, 0.0, launch)  # attention's sums and the MLP's


def head_terms(setup: Setup, rows: float) -> Terms:
    """The LM head, which no recipe quantises, for the tokens that need logits."""
    parameters = setup.model.embedding / setup.sharding.tp
    return _split(setup, rows, parameters, parameters * setup.form.plain.bytes, setup.body.head_rates)


def hop_terms(setup: Setup, rows: float) -> Terms:
    """One boundary between stages. tp ranks each send their part to their peer."""
    size = rows * setup.model.hidden * setup.form.plain.bytes * scalar("pipeline_tensors") / setup.sharding.tp
    within = setup.sharding.replica_ranks <= setup.gpu.node_gpus
    return Terms(hand_over=_seconds(hand_over(setup.gpu, size, within), setup.scale))


def step_overhead(setup: Setup) -> Terms:
    """What the engine does once a pass: schedule, sample, send tokens out."""
    return Terms(launch=scalar("step_ms") * 1e-3 * setup.scale.step)


def step(setup: Setup, work: Work) -> Step:
    """All stages one after another, and the slowest: one layer more than the mean, or the head besides its layers."""
    model, pp = setup.model, setup.sharding.pp
    layer, overhead = layer_terms(setup, work), step_overhead(setup)
    head = head_terms(setup, work.decodes + (1 if work.prompt else 0))
    if pp == 1:
        whole = Terms.sum((layer.times(model.layers), head, overhead))
        return Step(whole, whole)
    hop = hop_terms(setup, work.rows)
    whole = Terms.sum((layer.times(model.layers), head, hop.times(pp - 1), overhead))
    last, most = Terms.sum((layer.times(model.layers // pp), head)), layer.times(-(-model.layers // pp))
    return Step(whole, Terms.sum((max(last, most, key=lambda terms: terms.total), hop, overhead)))


def _seconds(exchange: Exchange, scale: Scale) -> float:
    return exchange.latency * scale.latency + exchange.transfer * scale.link


def _matmul(setup: Setup, rows: float, parameters: float, size: float, rate: Rates) -> tuple[float, float]:
    """Seconds of reading `size` bytes of weights and multiplying `rows` by them; the p-norm's total, split by the two's share."""
    weights, _, compute, *_ = _split(setup, rows, parameters, size, rate)
    return weights, compute


def _split(setup: Setup, rows: float, parameters: float, size: float, rate: Rates) -> Terms:
    read = size / rate.memory * setup.scale.memory
    multiply = 2 * rows * parameters / rate.compute * setup.scale.compute
    if not rows:
        return Terms()
    p = scalar("roofline_norm")
    a, b = read**p, multiply**p
    total = (a + b) ** (1 / p)
    return Terms(weights=total * a / (a + b), compute=total * b / (a + b))


def _experts(setup: Setup, rows: float, tokens: float) -> tuple[float, float]:
    """Routed experts: the stage's T `tokens` touch E (1 - (1 - k/E)^T) of E; the busiest rank computes its share of T k."""
    model, s, body = setup.model, setup.sharding, setup.body
    touched = body.experts * (1 - (1 - model.experts_per_token / model.experts) ** tokens)
    imbalance = expert_imbalance(s.ep, tokens)
    chosen = tokens * model.experts_per_token / s.ep * imbalance
    size = touched * body.expert * setup.form.weights.bytes
    rows_computed = chosen + touched * body.grouped.padding
    read = size / body.grouped.memory * setup.scale.memory
    multiply = 2 * rows_computed * body.expert / body.grouped.compute * setup.scale.compute
    p = scalar("roofline_norm")
    a, b = read**p, multiply**p
    total = (a + b) ** (1 / p) if rows else 0.0
    weights, compute = total * a / (a + b or 1), total * b / (a + b or 1)
    wide = scalar("elementwise_wide") * model.expert_intermediate / s.etp
    moved = chosen * (scalar("expert_hidden") * model.hidden + wide) * setup.form.plain.bytes
    compute += moved / setup.gpu.bandwidth * setup.scale.compute
    if body.shared:
        w, c = _matmul(setup, rows, body.shared, body.shared * setup.form.weights.bytes, body.weight_rates)
        weights, compute = weights + w, compute + c
    return weights, compute


@lru_cache(maxsize=4096)
def expert_imbalance(ep: int, tokens: float) -> float:
    """Load of the busiest expert rank over the mean: none when few tokens leave it memory bound."""
    weight = read_curve(curve("expert_imbalance_weight"), max(1.0, tokens))
    return 1 + (read_curve(curve("expert_imbalance"), ep) - 1) * weight


def remote_groups(setup: Setup) -> float:
    """Other attention groups that a token's chosen experts live in: (e-1)/e e (1 - (1 - 1/e)^k)."""
    groups, spread = setup.sharding.attention_dp, min(setup.sharding.ep, setup.sharding.attention_dp)
    return (groups - 1) * (1 - (1 - 1 / spread) ** setup.model.experts_per_token) if spread > 1 else groups - 1.0


def _dispatch_and_combine(setup: Setup, rows: float) -> Exchange:
    """Two all-to-alls a layer: tokens to their experts in the weights' activation format, results back unquantised."""
    groups = setup.sharding.attention_dp
    if groups == 1:
        return NOTHING
    if setup.engine.dispatch == "all_to_all" or setup.engine.dispatch == setup.gpu.link:
        sent = rows * setup.model.hidden * remote_groups(setup)
    else:
        sent = rows * setup.model.hidden * groups  # every group's tokens go everywhere
    there = all_to_all(setup.gpu, groups, sent * setup.form.weights.activation_bytes)
    back = all_to_all(setup.gpu, groups, sent * setup.form.plain.bytes)
    return Exchange(there.latency + back.latency, there.transfer + back.transfer)


def _decode_attention(setup: Setup, work: Work) -> float:
    """Reads every token's cache; latent attention also multiplies enough to be bound by it."""
    if not work.decodes:
        return 0.0
    model, gpu = setup.model, setup.gpu
    remembered = work.decodes * model.remembered(work.context)  # tokens of cache
    read = remembered * setup.body.kv_bytes / (gpu.bandwidth * scalar("decode_attention_efficiency"))
    if model.latent is not None:
        wide = 2 * model.latent.kv_rank + model.latent.rope
        flops = 2 * remembered * model.heads / setup.sharding.tp * wide
        p = scalar("roofline_norm")
        multiply = flops / (gpu.flops["bf16"] * scalar("mla_attention_efficiency"))
        read = (read**p + multiply**p) ** (1 / p)
    return (read + scalar("decode_attention_floor_us") * 1e-6) * setup.scale.attention


def _prompt_attention(setup: Setup, work: Work) -> float:
    """Causal attention of a prompt: 4 n_q d T S flops, S its mean context, at the measured share of the 16-bit peak."""
    if not work.prompt:
        return 0.0
    model, gpu = setup.model, setup.gpu
    width = 2 * model.head_dim if model.latent is None else sum(model.latent[2:])
    flops = 2 * model.heads / setup.sharding.tp * width * work.prompt * model.remembered(work.reach)
    share = read_curve(curve("prefill_attention_mfu"), 2 * work.reach)
    return flops / (gpu.flops.get("bf16", gpu.flops.get("fp32", 0.0)) * share) * setup.scale.attention


def bytes_per_token(setup: Setup) -> dict[str, float]:
    """Bytes that one GPU sends for one token of its group, by axis. TP: 4 (t-1)/t h b l; PP: its boundary's; EP: both ways."""
    model, s = setup.model, setup.sharding
    hidden = model.hidden * setup.form.plain.bytes
    both = model.hidden * (setup.form.weights.activation_bytes + setup.form.plain.bytes)
    return {
        "tp": 4 * (s.tp - 1) / s.tp * hidden * model.layers / s.pp,
        "pp": hidden * scalar("pipeline_tensors") / s.tp if s.pp > 1 else 0.0,
        "ep": both * remote_groups(setup) * model.moe_layers / s.pp if s.attention_dp > 1 else 0.0,
    }
