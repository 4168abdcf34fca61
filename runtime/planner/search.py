"""Every layout of so many GPUs, judged and predicted; the front that no other point beats; the one to take, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Any

from runtime.planner.calibration import Calibration
from runtime.planner.cost import Setup
from runtime.planner.hardware import Cluster, over_pcie
from runtime.planner.memory import Memory, Verdict, precision, rank_memory, sequences, verdict
from runtime.planner.models import Model
from runtime.planner.names import PlanError, load, nearest
from runtime.planner.parameters import find_engine
from runtime.planner.serving import Prediction, Workload, predict
from runtime.planner.sharding import Sharding, broken_rules, layouts, warnings
from runtime.stress.goodput import Slo

POINTS = 240  # predictions of one search, about, so that it answers as one types
MOST_LOADS, FEWEST_LOADS = 10, 6  # of one layout


@dataclass(frozen=True)
class Request:
    """What is to be planned."""

    model: Model
    cluster: Cluster
    isl: int
    osl: int
    concurrency: int | None = None  # over all replicas; None: every load from one request to as many as fit
    rate: float | None = None  # requests a second
    weights: str = "bf16"
    kv: str = "same"
    engine: str = "shardscope"
    calibration: Calibration = field(default_factory=Calibration)
    source: str = ""  # the model as it was asked for: a checkpoint's directory, a repository or a name

    def setup(self, sharding: Sharding) -> Setup:
        form = precision(self.model, self.weights, self.kv)
        return Setup(self.model, sharding, self.cluster, form, find_engine(self.engine), self.calibration.scale)


@dataclass(frozen=True)
class Entry:
    """One layout: the rules it breaks, or its memory, verdict and predictions by load."""

    sharding: Sharding
    broken: list[str]
    verdict: Verdict
    memory: Memory | None = None
    largest_batch: int = 0  # requests in flight that the cache holds, over all replicas
    warnings: list[str] = field(default_factory=list)
    points: list[Prediction] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        return bool(self.points)


@dataclass(frozen=True)
class UseCase:
    """What a service must keep, and what it wants most beyond that: "throughput" a GPU, or "latency"."""

    name: str
    goal: str
    ttft: float = float("inf")  # seconds
    user_tokens_s: float = 0.0
    e2e: float = float("inf")  # seconds

    def met(self, point: Prediction) -> bool:
        """A queue that grows without end meets nothing."""
        soon = point.ttft <= self.ttft and isfinite(point.ttft)
        return soon and point.tokens_s_user >= self.user_tokens_s and point.e2e <= self.e2e

    def merit(self, point: Prediction) -> float:
        return point.tokens_s_gpu if self.goal == "throughput" else point.tokens_s_user

    def distance(self, point: Prediction) -> float:
        """How many times over its limits a point is, for when none is within."""
        if not isfinite(point.ttft):
            return inf
        return max(point.ttft / self.ttft, self.user_tokens_s / point.tokens_s_user, point.e2e / self.e2e)

    def limited_to(self, slo: Slo) -> UseCase:
        """What it wants, within other limits. Both a mean gap and TPOT bound the tokens of a user."""
        gap = min(slo.itl or float("inf"), slo.tpot or float("inf"))
        ttft, e2e = ((limit or float("inf")) / 1e3 for limit in (slo.ttft, slo.e2e))
        name = ",".join(f"{limit}={value:g}" for limit, value in slo.limits.items())
        return UseCase(name, self.goal, ttft, 1e3 / gap, e2e)


@dataclass(frozen=True)
class Choice:
    """The point to take, and why, clause by clause. `met`: it is within the use case's limits."""

    point: Prediction
    why: tuple[str, ...]
    met: bool

    @property
    def reason(self) -> str:
        """One line; where the limits are met it begins with what there is to gain."""
        gain = f"{self.point.tokens_s_gpu:,.0f} tok/s/GPU at {self.point.tokens_s_user:.0f} tok/s a user"
        return "; ".join((gain, *self.why) if self.met else self.why)


@dataclass(frozen=True)
class Plan:
    request: Request
    use_case: UseCase
    entries: list[Entry]
    front: list[Prediction]
    choice: Choice | None


def use_cases() -> list[str]:
    return list(load("parameters")["use_cases"])


def find_use_case(name: str) -> UseCase:
    """A preset by name. Raises PlanError naming the nearest."""
    given: dict[str, Any] | None = load("parameters")["use_cases"].get(name.lower())
    if given is None:
        raise PlanError(f"use case '{name}' is not known; {nearest(name, use_cases())}")
    ttft = given.get("ttft_ms", float("inf")) / 1e3
    return UseCase(name.lower(), given["goal"], ttft, given.get("user_tokens_s", 0.0))


def make_plan(request: Request, use_case: UseCase) -> Plan:
    """Judge and predict every layout of the cluster."""
    every = list(layouts(request.cluster.gpus, request.model.experts > 0, request.engine))
    loads = max(FEWEST_LOADS, min(MOST_LOADS, POINTS // len(every)))
    entries = [judge(request, sharding, loads) for sharding in every]
    points = [point for entry in entries for point in entry.points]
    return Plan(request, use_case, entries, pareto(points), choose(points, use_case))


def judge(request: Request, sharding: Sharding, points: int = MOST_LOADS) -> Entry:
    """One layout under the request: why it cannot be, or what it gives at each load."""
    setup = request.setup(sharding)
    broken = broken_rules(sharding, request.model, setup.form.weights)
    if broken:
        return Entry(sharding, broken, Verdict("no", broken[0]))
    memory = rank_memory(request.model, sharding, request.cluster.gpu, setup.form, setup.engine)
    groups = sharding.dp * sharding.attention_dp
    room = int(sequences(request.model, memory, setup.engine, request.isl, request.osl) * groups)
    wanted = request.concurrency or groups
    isl, osl, engine = request.isl, request.osl, setup.engine
    found = verdict(request.model, sharding, request.cluster, setup.form, engine, isl, osl, wanted, memory)
    if found.word == "no":
        return Entry(sharding, [], found, memory, 0)
    notes = warnings(sharding, request.model, request.cluster)
    if isl + osl > request.model.max_position:
        notes.append(f"the model was made for {request.model.max_position:,} tokens, {isl + osl:,} are asked")
    base = Workload(isl, osl)
    if request.rate is not None:
        loads = [replace(base, rate=request.rate)]
    elif request.concurrency is not None:
        loads = [replace(base, concurrency=request.concurrency)]
    else:
        loads = [replace(base, concurrency=count) for count in _counts(room, groups, points)]
    return Entry(sharding, [], found, memory, room, notes, [predict(setup, load, memory) for load in loads])


def _counts(room: int, groups: int, points: int) -> list[int]:
    """Loads worth a point: evenly spaced in their logarithm, from one request a group to as many as fit, groups alike."""
    if room <= groups:
        return [max(room, 1)]
    ratio = (room / groups) ** (1 / (points - 1))
    return sorted({groups * round(ratio**i) for i in range(points - 1)} | {room})


def pareto(points: Sequence[Prediction]) -> list[Prediction]:
    """Points that no other beats in both tokens/s/GPU and tokens/s/user, fastest for a user first."""
    front: list[Prediction] = []
    for point in sorted(points, key=lambda p: (-p.tokens_s_user, -p.tokens_s_gpu)):
        if not front or point.tokens_s_gpu > front[-1].tokens_s_gpu:
            front.append(point)
    return front


def choose(points: Sequence[Prediction], use_case: UseCase) -> Choice | None:
    """The best point within the use case's limits, or the nearest to them; None when nothing runs."""
    if not points:
        return None
    within = [point for point in points if use_case.met(point)]
    if not within:
        nearest_point = min(points, key=lambda point: (use_case.distance(point), -point.tokens_s))
        return Choice(nearest_point, _missed(nearest_point, use_case), False)
    best, *others = sorted(within, key=lambda point: worth(point, use_case), reverse=True)
    second = next((point for point in others if point.sharding != best.sharding), None)
    return Choice(best, _why(best, second, points, use_case), True)


def worth(point: Prediction, use_case: UseCase) -> tuple[float, float]:
    """Merit; between layouts that yield the same, as all that keep up with a rate do, what a user gets."""
    return float(f"{use_case.merit(point):.6g}"), point.tokens_s_user


def _missed(point: Prediction, use_case: UseCase) -> tuple[str, str]:
    short = []
    if not isfinite(point.ttft):
        rate, served = point.workload.rate or 0.0, point.tokens_s / point.workload.osl
        short.append(f"its queue grows without end ({rate:,.4g} requests/s wanted, {served:,.4g} served)")
    elif point.ttft > use_case.ttft:
        short.append(f"TTFT {point.ttft * 1e3:,.0f} ms, wanted {use_case.ttft * 1e3:,.0f}")
    if point.tokens_s_user < use_case.user_tokens_s:
        short.append(f"{point.tokens_s_user:.1f} tok/s a user, wanted {use_case.user_tokens_s:.0f}")
    if point.e2e > use_case.e2e:
        short.append(f"a request {point.e2e:.1f} s, wanted {use_case.e2e:.1f}")
    return f"no layout meets {use_case.name}", f"{point.sharding} comes nearest: {' and '.join(short)} ({_limit(point)})"


def _why(best: Prediction, second: Prediction | None, points: Sequence[Prediction], use_case: UseCase) -> tuple[str, str]:
    limit = _limit(best)
    if second is None:
        alone = all(point.sharding == best.sharding for point in points)
        return limit, "no other layout runs" if alone else f"no other layout meets {use_case.name}"
    loss = 1 - use_case.merit(second) / use_case.merit(best)
    unbound = max((p for p in points if p.sharding != best.sharding), key=use_case.merit)
    if use_case.merit(unbound) > (1 + 1e-6) * use_case.merit(best):
        return limit, f"{unbound.sharding} would yield more but misses {use_case.name}'s limits"
    return limit, f"{second.sharding} gives {loss:.0%} less ({_limit(second)})"


def _limit(point: Prediction) -> str:
    name, share = point.limiting
    bubble = f", bubble {point.bubble:.0%}" if point.bubble > 0.05 else ""
    return f"{name} {share:.0%} of {'TPOT' if name == 'prompts' else 'a step'}{bubble}"


def by_use_case(plan: Plan) -> dict[str, Choice | None]:
    """The choice for every preset, of the same points."""
    points = [point for entry in plan.entries for point in entry.points]
    return {name: choose(points, find_use_case(name)) for name in use_cases()}


def what_if(plan: Plan) -> list[tuple[str, Choice | None]]:
    """The same question with one thing changed: more GPUs, PCIe for NVLink, a smaller format, a longer context.

    A GPU that no layout can use stays idle, so more GPUs never yield less.
    """
    request, cluster = plan.request, plan.request.cluster
    one, all_of = ("rank", "ranks") if cluster.gpu.shared else ("GPU", "GPUs")
    found = [
        (words, _no_worse(plan, make_plan(replace(request, cluster=replace(cluster, gpus=count)), plan.use_case).choice))
        for words, count in ((f"one more {one}", cluster.gpus + 1), (f"twice the {all_of}", 2 * cluster.gpus))
    ]
    changes = [("4x the input", replace(request, isl=4 * request.isl))]
    if cluster.gpu.link == "nvlink" and cluster.gpus > 1:
        changes.append(("PCIe for NVLink", replace(request, cluster=replace(cluster, gpu=over_pcie(cluster.gpu)))))
    if precision(request.model, request.weights, request.kv).weights.bytes > 1.01:
        changes.append(("int8 weights", replace(request, weights="int8")))
    return found + [(words, make_plan(changed, plan.use_case).choice) for words, changed in changes]


def _no_worse(plan: Plan, changed: Choice | None) -> Choice | None:
    now = plan.choice
    if changed is None or (now is not None and now.met >= changed.met and now.point.tokens_s > changed.point.tokens_s):
        return now
    return changed
