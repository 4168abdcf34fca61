"""What one step costs a rank, term by term. All times are seconds; all sizes are of one rank.

Every term is linear in the layers, so a layer is costed once and a stage or a whole pass is a multiple of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from runtime.planner.collectives import NOTHING, Exchange, all_gather, all_reduce, all_to_all, hand_over
from runtime.planner.hardware import Cluster, Gpu
from runtime.planner.memory import Precision
from runtime.planner.models import Model
from runtime.planner.parameters import Engine, Scale, curve, read_curve, scalar
from runtime.planner.rates import Rates, SheetRates
from runtime.planner.sharding import Sharding, stage_split


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
    busy: float = 1.0  # ranks at work at once, which matters where they share cores

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

    @cached_property
    def _sheet(self) -> SheetRates:
        return SheetRates(self.gpu, self.engine, self.form.weights)

    def rates(self, busy: float) -> Rates:
        """A rank's while so many work at once."""
        machine = self.gpu.machine
        return self._sheet if machine is None else machine.rates(self.sharding.ranks, busy)


@dataclass(frozen=True)
class _Body:
    """Sizes of one layer, the mean over dense and mixture layers, worked out once a setup."""

    attention: int  # parameters on this rank
    plain: float  # share of layers with a plain MLP
    mlp: int
    shared: int
    expert: int  # one expert's share
    mlp_width: float
    kv_bytes: float  # of one token in one layer

    @classmethod
    def of(cls, setup: Setup) -> _Body:
        model, s, form = setup.model, setup.sharding, setup.form
        moe = model.moe_layers / model.layers
        return cls(
            attention=model.attention(s.tp),
            plain=1 - moe,
            mlp=model.mlp(s.tp),
            shared=model.shared(s.tp),
            expert=model.expert(s.etp) if model.experts else 0,
            mlp_width=(1 - moe) * model.intermediate / s.tp + moe * model.shared_intermediate / s.tp,
            kv_bytes=model.kv_elements(s.tp) * form.kv.bytes,
        )


def layer_terms(setup: Setup, work: Work) -> Terms:
    """One mean layer. Matrices of one kind share their rows, so they cost as one."""
    model, s, body, scale, form = setup.model, setup.sharding, setup.body, setup.scale, setup.form
    rates, rows = setup.rates(work.busy), work.rows
    weights, compute = rates.product(rows, body.attention, form.attention, scale)
    if body.plain:
        w, c = rates.product(rows, body.mlp, form.weights, scale)
        weights, compute = weights + body.plain * w, compute + body.plain * c
    exchange, touched = NOTHING, 0.0
    if body.plain < 1:
        w, c, touched = _experts(setup, rates, work)
        weights, compute = weights + (1 - body.plain) * w, compute + (1 - body.plain) * c
        exchange = _dispatch_and_combine(setup, rows)
    moved = scalar("elementwise_hidden") * model.hidden + scalar("elementwise_wide") * body.mlp_width
    compute += rates.elementwise(rows * moved * form.plain.bytes) * scale.compute
    kv = _decode_attention(setup, rates, work) + _prompt_attention(setup, rates, work)
    reduced = all_reduce(setup.gpu, setup.engine.all_reduce, s.tp, rows * model.hidden * form.plain.bytes)
    a2a = (1 - body.plain) * _seconds(setup, exchange, work.busy)
    launch = rates.launch(rows, 1 - body.plain, touched) * scale.kernel
    return Terms(
        weights, kv, compute, 2 * _seconds(setup, reduced, work.busy), a2a, 0.0, launch
    )  # attention's sums and the MLP's


def head_terms(setup: Setup, rows: float, busy: float) -> Terms:
    """The LM head, which no recipe quantises, for the tokens that need logits."""
    parameters = setup.model.embedding / setup.sharding.tp
    weights, compute = setup.rates(busy).product(rows, parameters, setup.form.plain, setup.scale)
    return Terms(weights=weights, compute=compute)


def hop_terms(setup: Setup, rows: float, busy: float) -> Terms:
    """One boundary between stages."""
    within = setup.sharding.replica_ranks <= setup.gpu.node_gpus
    return Terms(hand_over=_seconds(setup, hand_over(setup.gpu, rows * hop_bytes(setup), within), busy))


def hop_bytes(setup: Setup) -> float:
    """What one rank sends over a boundary for a token: its part of the hidden states, or all where the engine splits nothing."""
    engine, whole = setup.engine, setup.model.hidden * setup.form.plain.bytes
    return engine.pipeline_tensors * whole / (setup.sharding.tp if engine.pipeline_split else 1)


def step_overhead(setup: Setup, busy: float) -> Terms:
    """What the engine does once a pass: schedule, sample, send tokens out."""
    return Terms(launch=setup.rates(busy).engine_step(setup.sharding.pp) * setup.scale.step)


def prompt_dispatch(setup: Setup, first_token: bool) -> float:
    """What a CPU needs at least to launch the kernels of a pass with a prompt. Ranks measured here tell it themselves, and a
    built engine is one program.

    Layers of experts that nothing compiles were measured pass by pass; of all others it is known what they add to a first token.
    """
    if setup.gpu.machine is not None or setup.engine.built:
        return 0.0
    model, plain = setup.model, scalar("prompt_dispatch_ms") if first_token else 0.0
    mixture = plain if setup.engine.compiles_prompts else scalar("prompt_dispatch_moe_ms")
    moe = model.moe_layers / model.layers
    return ((1 - moe) * plain + moe * mixture) * 1e-3 * model.layers * setup.scale.queue


def step(setup: Setup, work: Work) -> Step:
    """All stages one after another, and the slowest: one layer more than the mean, or the head besides its layers."""
    model, pp = setup.model, setup.sharding.pp
    layer, overhead = layer_terms(setup, work), step_overhead(setup, work.busy)
    head = head_terms(setup, work.decodes + (1 if work.prompt else 0), work.busy)
    if pp == 1:
        whole = _together(layer, model.layers, head, 0.0, overhead)
        return Step(whole, whole)
    hop = hop_terms(setup, work.rows, work.busy).hand_over
    whole = _together(layer, model.layers, head, (pp - 1) * hop, overhead)
    inner, ending = stage_split(model, pp, setup.engine.stages)
    last, most = (_together(layer, *each, hop, overhead) for each in ((ending, head), (inner, Terms())))
    return Step(whole, max(last, most, key=lambda terms: terms.total))


def _together(layer: Terms, layers: float, head: Terms, hops: float, overhead: Terms) -> Terms:
    """So many layers, the head, hops and the engine's part: what a search asks for most."""
    weights, kv, compute, reduced, a2a, _, launch = layer
    return Terms(
        layers * weights + head.weights,
        layers * kv,
        layers * compute + head.compute,
        layers * reduced,
        layers * a2a,
        hops,
        layers * launch + overhead.launch,
    )


def _seconds(setup: Setup, exchange: Exchange, busy: float) -> float:
    machine, latency = setup.gpu.machine, exchange.latency
    if latency and machine is not None:
        latency += machine.wait(setup.sharding.ranks, busy)
    return latency * setup.scale.latency + exchange.transfer * setup.scale.link


def _experts(setup: Setup, rates: Rates, work: Work) -> tuple[float, float, float]:
    """Routed and shared experts, and how many of a rank's routed ones have work.

    The busiest rank computes its share of the T k rows that the stage's T tokens choose.
    """
    model, s, body, form, scale = setup.model, setup.sharding, setup.body, setup.form, setup.scale
    tokens = (work.decodes + work.share * work.prompt) * s.attention_dp  # of the stage
    touched = experts_touched(model.experts, model.experts_per_token, tokens) / s.ep
    chosen = tokens * model.experts_per_token / s.ep * expert_imbalance(s.ep, tokens)
    weights, compute = rates.experts(chosen, touched, body.expert, form.weights, scale) if work.rows else (0.0, 0.0)
    wide = scalar("elementwise_wide") * model.expert_intermediate / s.etp
    moved = chosen * (scalar("expert_hidden") * model.hidden + wide) * form.plain.bytes
    compute += rates.elementwise(moved) * scale.compute
    if body.shared:
        w, c = rates.product(work.rows, body.shared, form.weights, scale)
        weights, compute = weights + w, compute + c
    return weights, compute, touched


@lru_cache(maxsize=1 << 14)
def experts_touched(experts: int, chosen: int, tokens: float) -> float:
    """Experts of a layer that have work when T tokens choose k of E each.

    Alike, they would be E (1 - (1 - k/E)^T). Popular ones are chosen more often: loads are spread evenly in their logarithm over
    a factor R = 0.8 T, as in AIConfigurator's power law of 1.01, which leaves E / ln R [Ein(c R) - Ein(c)] of
    E (1 - exp(-T k / E)), c = T k ln R / (E (R - 1)).
    """
    alike: float = experts * (1 - math.pow(1 - chosen / experts, tokens))
    spread = scalar("expert_spread") * tokens
    if spread <= 1.01:
        return alike
    least = tokens * chosen * math.log(spread) / (experts * (spread - 1))
    popular = (_ein(least * spread) - _ein(least)) / math.log(spread)
    return alike * popular / -math.expm1(-tokens * chosen / experts)


def _ein(x: float) -> float:
    """The integral of (1 - e^-t) / t from 0 to x: a series below 1; above, ln x + gamma + E1(x), Abramowitz & Stegun 5.1.56."""
    if x < 1:
        return x * (1 - x / 4 * (1 - 2 * x / 9 * (1 - 3 * x / 16 * (1 - 4 * x / 25))))
    above = ((x + 8.5733287401) * x + 18.0590169730) * x + 8.6347608925
    below = ((x + 9.5733223454) * x + 25.6329561486) * x + 21.0996530827
    e1 = math.exp(-x) / x * (above * x + 0.2677737343) / (below * x + 3.9584969228) if x < 700 else 0.0
    return math.log(x) + 0.5772156649 + e1


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
    """Tokens to their experts in the weights' activation format, results back unquantised, each layer: by two all-to-alls, or an
    all-gather and a reduce-scatter."""
    groups = setup.sharding.attention_dp
    if groups == 1:
        return NOTHING
    hidden, there_bytes, back_bytes = setup.model.hidden, setup.form.weights.activation_bytes, setup.form.plain.bytes
    if setup.engine.dispatch == "all_to_all" or setup.engine.dispatch == setup.gpu.link:
        sent = rows * hidden * remote_groups(setup)
        there, back = (all_to_all(setup.gpu, groups, sent * each) for each in (there_bytes, back_bytes))
    else:  # every group's tokens go everywhere
        sent = rows * hidden * groups
        there, back = (all_gather(setup.gpu, groups, sent * each) for each in (there_bytes, back_bytes))
    return Exchange(there.latency + back.latency, there.transfer + back.transfer)


def _decode_attention(setup: Setup, rates: Rates, work: Work) -> float:
    """Reads every token's cache; latent attention also multiplies enough to be bound by it."""
    if not work.decodes:
        return 0.0
    model = setup.model
    remembered = work.decodes * model.remembered(work.context)  # tokens of cache
    flops = 0.0
    if model.latent is not None:
        flops = 2 * remembered * model.heads / setup.sharding.tp * (2 * model.latent.kv_rank + model.latent.rope)
    return rates.decode_attention(work.decodes, remembered * setup.body.kv_bytes, flops) * setup.scale.attention


def _prompt_attention(setup: Setup, rates: Rates, work: Work) -> float:
    """Causal attention of a prompt: 4 n_q d T S flops, S its mean context."""
    if not work.prompt:
        return 0.0
    model = setup.model
    width = 2 * model.head_dim if model.latent is None else sum(model.latent[2:])
    flops = 2 * model.heads / setup.sharding.tp * width * work.prompt * model.remembered(work.reach)
    return rates.prompt_attention(2 * work.reach, flops) * setup.scale.attention


def bytes_per_token(setup: Setup) -> dict[str, float]:
    """Bytes that one GPU sends for one token of its group, by axis. TP: 4 (t-1)/t h b l; PP: its boundary's; EP: both ways."""
    model, s = setup.model, setup.sharding
    hidden = model.hidden * setup.form.plain.bytes
    both = model.hidden * (setup.form.weights.activation_bytes + setup.form.plain.bytes)
    return {
        "tp": 4 * (s.tp - 1) / s.tp * hidden * model.layers / s.pp,
        "pp": hop_bytes(setup) if s.pp > 1 else 0.0,
        "ep": both * remote_groups(setup) * model.moe_layers / s.pp if s.attention_dp > 1 else 0.0,
    }
