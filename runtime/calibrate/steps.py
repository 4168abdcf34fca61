"""What recorded steps and requests say against the planner: points that its factors are fitted to. Pure.

A point has a metric, a measured value in milliseconds, and a prediction under given factors.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import NamedTuple

from runtime.planner.cost import Setup, Work, head_terms, layer_terms, step_overhead
from runtime.planner.parameters import Scale
from runtime.planner.serving import Workload, predict
from telemetry.records import RequestRecord, StepRecord

FEWEST = 3  # samples of a point
MOST = 24  # kinds of steps
AXES = {"tp": "all_reduce", "ep": "all_to_all"}


@dataclass(frozen=True)
class Stage:
    """The part of a model that a rank computes."""

    layers: int
    last: bool


@dataclass(frozen=True)
class StepPoint:
    """One part of one kind of step on the ranks of a stage: "compute_ms", "all_reduce_ms", "all_to_all_ms" or "host_ms"."""

    metric: str
    value: float
    setup: Setup
    work: Work
    stage: Stage
    wanted: float  # tokens whose logits are asked for

    def predicted(self, scale: Scale | None = None) -> float:
        setup = self.setup if scale is None else replace(self.setup, scale=scale)
        if self.metric == "host_ms":
            return 1e3 * step_overhead(setup, self.work.busy).total
        terms = layer_terms(setup, self.work).times(self.stage.layers)
        if self.metric != "compute_ms":
            return 1e3 * float(getattr(terms, self.metric.removesuffix("_ms")))
        head = head_terms(setup, self.wanted, self.work.busy).total if self.stage.last else 0.0
        return 1e3 * (terms.weights + terms.kv + terms.compute + terms.launch + head)


@dataclass(frozen=True)
class RequestPoint:
    """A typical request among so many: "tpot_ms" or "ttft_ms"."""

    metric: str
    value: float
    setup: Setup
    workload: Workload

    def predicted(self, scale: Scale | None = None) -> float:
        found = predict(self.setup if scale is None else replace(self.setup, scale=scale), self.workload)
        return 1e3 * (found.tpot if self.metric == "tpot_ms" else found.ttft)


class _Kind(NamedTuple):
    """Steps that cost alike: contexts and prompts of the same power of two."""

    stage: Stage
    decodes: int
    prompt: int
    context: int


def step_points(setup: Setup, steps: Iterable[StepRecord], stages: Mapping[int, Stage], block: int) -> list[StepPoint]:
    """The kinds of steps that were seen most; `stages` by rank, `block` tokens a cache block."""
    kinds: dict[_Kind, list[StepRecord]] = defaultdict(list)
    for step in steps:
        if step.rank in stages and step.decode_tokens + step.prefill_tokens and step.compute_ns:
            kinds[_kind(step, stages[step.rank], block)].append(step)
    most = sorted(kinds.items(), key=lambda item: -len(item[1]))[:MOST]
    return [point for kind, seen in most if len(seen) >= FEWEST for point in _points(setup, kind, seen)]


def _kind(step: StepRecord, stage: Stage, block: int) -> _Kind:
    # blocks are of all running sequences, of which a step may hold a part
    context = step.kv_blocks_used * block / max(1, step.sequences) if step.decode_tokens else 0
    prompt = round(log2(step.prefill_tokens)) if step.prefill_tokens else -1
    return _Kind(stage, step.decode_tokens, prompt, round(log2(max(1.0, context))))


def _points(setup: Setup, kind: _Kind, seen: Sequence[StepRecord]) -> Iterator[StepPoint]:
    prompt = statistics.median(step.prefill_tokens for step in seen)
    prompts = statistics.median(max(0, step.sequences - step.decode_tokens) for step in seen)
    # one micro-batch keeps a stage's ranks busy; with several, all stages
    stages = setup.sharding.pp if len({step.slot for step in seen}) > 1 else 1
    busy = setup.sharding.stage_ranks * stages * setup.sharding.dp
    work = Work(kind.decodes, 2.0**kind.context, prompt, prompt / max(1.0, prompts) / 2, busy=busy)
    wanted = kind.decodes + prompts

    def point(metric: str, nanoseconds: Iterable[float]) -> StepPoint:
        return StepPoint(metric, statistics.median(nanoseconds) / 1e6, setup, work, kind.stage, wanted)

    yield point("compute_ms", (step.compute_ns for step in seen))
    for axis, name in AXES.items():
        spent = [step.axes[axis].wait_ns + step.axes[axis].transfer_ns for step in seen if axis in step.axes]
        if spent and statistics.median(spent) > 0 and (axis != "ep" or setup.model.experts):
            yield point(f"{name}_ms", spent)
    gaps = [step.gap_ns for step in seen if not step.idle_ns]
    if setup.sharding.pp == 1 and gaps and statistics.median(gaps) > 0:
        yield point("host_ms", gaps)


def request_points(setup: Setup, requests: Sequence[RequestRecord]) -> list[RequestPoint]:
    """By how many there were at once: what a typical request waited for its first token, and between tokens after it."""
    groups: dict[int, list[RequestRecord]] = defaultdict(list)
    for request in requests:
        if request.first_token_ns is not None and request.output_tokens > 1:
            groups[round(log2(_beside(request, requests)))].append(request)
    found = []
    for seen in groups.values():
        if len(seen) < FEWEST:
            continue
        isl, osl = (statistics.median(each) for each in zip(*((r.prompt_tokens, r.output_tokens) for r in seen), strict=True))
        load = Workload(isl, osl, text=False, concurrency=statistics.mean(_beside(request, requests) for request in seen))
        tpot = statistics.median(_tpot_ns(request) for request in seen) / 1e6
        found.append(RequestPoint("tpot_ms", tpot, setup, load))
        if not any(request.cached_tokens for request in seen):
            ttft = statistics.median((request.first_token_ns or 0) - request.arrived_ns for request in seen) / 1e6
            found.append(RequestPoint("ttft_ms", ttft, setup, load))
    return found


def _tpot_ns(request: RequestRecord) -> float:
    return (request.finished_ns - (request.first_token_ns or request.arrived_ns)) / (request.output_tokens - 1)


def _beside(request: RequestRecord, others: Sequence[RequestRecord]) -> float:
    """Requests in flight during this one, itself among them; the mean over its life."""
    life = max(1, request.finished_ns - request.arrived_ns)
    shared = (
        min(other.finished_ns, request.finished_ns) - max(other.arrived_ns, request.arrived_ns)
        for other in others
        if other.arrived_ns < request.finished_ns and other.finished_ns > request.arrived_ns
    )
    return max(1.0, sum(shared) / life)


def most_seen(values: Iterable[int], default: int) -> int:
    counted = Counter(values)
    return counted.most_common(1)[0][0] if counted else default
