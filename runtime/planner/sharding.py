"""Which layouts there are for so many devices, and which of them a model cannot take, with the rule that each breaks.

A `Sharding` is wider than `runtime.layout.Layout`: other engines spread experts over the tensor-parallel group too. There
tp x attention_dp = ep x etp holds in every stage; ours has attention_dp = ep, hence etp = tp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from runtime.layout import Layout
from runtime.planner.hardware import Cluster
from runtime.planner.models import Model
from runtime.planner.parameters import Format, scalar


@dataclass(frozen=True)
class Sharding:
    """Degrees of one deployment. Ranks = dp x pp x attention_dp x tp; `ep` ways the experts are spread over a stage's ranks."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    attention_dp: int = 1  # groups of a stage that hold different requests and share the experts
    ep: int = 1

    @classmethod
    def of(cls, layout: Layout) -> Sharding:
        """Our runtime's layout: the ep axis is data parallel outside the experts."""
        return cls(layout.tp, layout.pp, layout.dp, layout.ep, layout.ep)

    @cached_property
    def layout(self) -> Layout | None:
        """As our runtime spells it; None when only other engines can run it."""
        same = self.ep == self.attention_dp
        return Layout(dp=self.dp, pp=self.pp, ep=self.ep, tp=self.tp) if same else None

    @property
    def stage_ranks(self) -> int:
        return self.tp * self.attention_dp

    @property
    def etp(self) -> int:
        """Ranks that each expert is split over."""
        return self.stage_ranks // self.ep

    @property
    def replica_ranks(self) -> int:
        return self.stage_ranks * self.pp

    @property
    def ranks(self) -> int:
        return self.replica_ranks * self.dp

    def __str__(self) -> str:
        if self.layout is not None:
            return str(self.layout)
        names = {"tp": self.tp, "pp": self.pp, "adp": self.attention_dp, "dp": self.dp}
        attention = "".join(f"{axis}{degree}" for axis, degree in names.items() if degree > 1)
        return f"{attention}+ep{self.ep}" if self.ep > 1 else f"{attention}+etp{self.etp}"


def broken_rules(sharding: Sharding, model: Model, weights: Format) -> list[str]:
    """Every rule by which the model cannot take the layout, each naming its values; empty when it can."""
    s, rules = sharding, []
    if s.stage_ranks % s.ep:
        rules.append(f"ep {s.ep}: does not divide the stage's {s.stage_ranks} ranks")
    if model.heads % s.tp:
        rules.append(f"tp {s.tp}: {model.heads} attention heads do not divide by it")
    if model.latent is None and model.kv_heads % s.tp and s.tp % model.kv_heads:
        rules.append(f"tp {s.tp}: {model.kv_heads} kv heads neither divide by it nor divide it")
    if model.dense_layers and model.intermediate % (s.tp * weights.block):
        rules.append(_block_rule("tp", s.tp, "MLP", model.intermediate, weights))
    if s.pp > model.layers:
        rules.append(f"pp {s.pp}: the model has only {model.layers} layers, a stage needs one at least")
    if not model.experts:
        if s.ep > 1 or s.attention_dp > 1:
            rules.append(f"ep {max(s.ep, s.attention_dp)}: the model has no experts (use dp for more replicas)")
        return rules
    if model.experts % s.ep:
        rules.append(f"ep {s.ep}: {model.experts} experts do not divide by it")
    elif s.stage_ranks % s.ep == 0 and model.expert_intermediate % (s.etp * weights.block):
        rules.append(_block_rule("etp", s.etp, "expert", model.expert_intermediate, weights))
    return rules


def _block_rule(axis: str, degree: int, what: str, size: int, weights: Format) -> str:
    if size % degree:
        return f"{axis} {degree}: the {what}'s {size} columns do not divide by it"
    return f"{axis} {degree}: {size} / {degree} = {size // degree} is no multiple of {weights.name}'s block of {weights.block}"


def warnings(sharding: Sharding, model: Model, cluster: Cluster) -> list[str]:
    """What works and costs: links that tp leaves, uneven stages."""
    found = []
    if sharding.stage_ranks > min(cluster.gpu.link_gpus, cluster.gpu.node_gpus):
        reach = min(cluster.gpu.link_gpus, cluster.gpu.node_gpus)
        found.append(f"a stage of {sharding.stage_ranks} ranks leaves the {reach} GPUs that {cluster.gpu.link} joins")
    largest, mean = -(-model.layers // sharding.pp), model.layers / sharding.pp
    if largest > scalar("stage_imbalance_warning") * mean:
        found.append(f"pp {sharding.pp} makes uneven stages: {largest} layers against {mean:.1f} in the mean")
    return found


@lru_cache(maxsize=4096)
def stage_split(model: Model, pp: int, how: str) -> tuple[int, int]:
    """Layers of the largest stage before the last, and of the last, which has the LM head besides.

    `even`: as equal as they can be. `balanced`: as `runtime.layout.stage_layers` cuts them, the head counted for the parameters
    that it reads and the embedding, on the first stage, for a tenth of that.
    """
    if pp == 1:
        return model.layers, model.layers
    if how == "even":
        return -(-model.layers // pp), model.layers // pp
    layer = (model.active_parameters - model.embedding + model.small - model.hidden) / model.layers
    head = model.embedding / layer
    if pp == 2:
        first = min(
            _near((model.layers + head - head / 10) / 2, model.layers - 1), key=lambda n: _load(n, 0, 0, model.layers - n, head)
        )
        return first, model.layers - first

    def load(ends: tuple[int, int]) -> tuple[float, float]:
        return _load(ends[0], model.layers - sum(ends), pp - 2, ends[1], head)

    each = (model.layers + 1.1 * head) / pp
    found = [
        (first, last)
        for last in _near(each - head, model.layers - pp + 1)
        for first in _near((model.layers - last + head / 10) / (pp - 1) - head / 10, model.layers - last - pp + 2)
    ]
    first, last = min(found, key=load)
    return max(first, -(-(model.layers - first - last) // (pp - 2))), last


def _near(ideal: float, most: int) -> range:
    """Whole numbers about it, from 1 to `most`."""
    middle = min(max(1, round(ideal)), most)
    return range(max(1, middle - 2), min(most, middle + 2) + 1)


def _load(first: int, inner: int, stages: int, last: int, head: float) -> tuple[float, float]:
    """The largest stage in layers' worth of work, and the sum of squares, which decides between equals."""
    begin, end = first + head / 10, last + head
    fewest, more = divmod(inner, stages) if stages else (0, 0)
    largest = max(begin, end, fewest + (more > 0))
    return largest, begin * begin + end * end + more * (fewest + 1) ** 2 + (stages - more) * fewest**2


def layouts(ranks: int, moe: bool, engine: str = "shardscope") -> Iterator[Sharding]:
    """Every factorisation of `ranks` that the engine can spell, valid for a model or not."""
    for tp in divisors(ranks):
        for pp in divisors(ranks // tp):
            for adp in divisors(ranks // tp // pp) if moe else [1]:
                dp = ranks // tp // pp // adp
                for ep in _expert_degrees(tp, adp, engine) if moe else [1]:
                    yield Sharding(tp, pp, dp, adp, ep)


def _expert_degrees(tp: int, attention_dp: int, engine: str) -> list[int]:
    """How experts may be spread: ours over the ep axis alone, vLLM all or none, SGLang and TensorRT-LLM any divisor."""
    stage = tp * attention_dp
    if engine == "shardscope":
        return [attention_dp]
    if engine == "vllm":
        return sorted({1, stage})
    if engine == "trtllm" and min(tp, attention_dp) > 1:
        return []  # attention is all tensor parallel or all data parallel
    return divisors(stage)


PRESETS = {
    "stated": "the GPT-1.8T-MoE post's stated rules: at most one expert group an expert (ep <= 16), and a replica on 8 GPUs "
    "or more, because FP4 weights fill 5",
    "published": "the post's count: it prints 73 and not its constraints; ep <= 32 (experts in two slices) and dp <= 8 is the "
    "simplest rule that yields 73 and keeps every layout it names",
}


def preset(name: str, model: Model, ranks: int = 64) -> list[Sharding]:
    """The layouts that a rule of PRESETS counts: 70 and 73 on 64 GPUs, in powers of two."""
    every = (Sharding.of(Layout(dp=d, pp=p, ep=e, tp=ranks // d // p // e)) for d, p, e in _triples(ranks))
    if name == "stated":
        return [s for s in every if s.ep <= model.experts and s.dp <= ranks // 8]
    return [s for s in every if s.ep <= 2 * model.experts and s.dp <= 8]


def _triples(ranks: int) -> Iterator[tuple[int, int, int]]:
    for d in divisors(ranks):
        for p in divisors(ranks // d):
            for e in divisors(ranks // d // p):
                yield d, p, e


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
