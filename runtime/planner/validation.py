"""How good the planner is on measured rows: error by metric and group, order of the rows, and what its choice of layout costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.planner.measurements import Measurement, read_measurements
from runtime.planner.parameters import Scale


@dataclass(frozen=True)
class Score:
    """Errors are relative: |predicted / measured - 1|; `bias` is the geometric mean of predicted / measured, less 1."""

    group: str
    metric: str
    rows: int
    mape: float
    median: float
    bias: float
    spearman: float


@dataclass(frozen=True)
class Regret:
    """What is lost by taking the layout that the planner puts first instead of the best measured one, per GPU."""

    group: str
    choices: int  # questions that were measured under more than one layout
    mean: float
    worst: float


@dataclass(frozen=True)
class Validation:
    scores: list[Score]
    regrets: list[Regret]
    skipped: dict[int, str]  # line: why


def validate(path: Path, scale: Scale | None = None) -> Validation:
    """Predict every row of the CSV that can be. Raises PlanError when the file is not of the format."""
    rows, skipped = read_measurements(path)
    predicted = [row.predicted(scale) for row in rows]
    return Validation(scores(rows, predicted), regrets(rows, predicted), skipped)


def scores(rows: Sequence[Measurement], predicted: Sequence[float]) -> list[Score]:
    """One score for every group and metric, largest group first."""
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row, value in zip(rows, predicted, strict=True):
        pairs[row.group, row.metric].append((value, row.value))
    found = [score(group, metric, values) for (group, metric), values in pairs.items()]
    return sorted(found, key=lambda score: -score.rows)


def score(group: str, metric: str, pairs: Sequence[tuple[float, float]]) -> Score:
    """The score of (predicted, measured) pairs. A prediction of no end counts as ten times the measured value."""
    ratios = [min(predicted / measured, 10.0) for predicted, measured in pairs]
    errors = sorted(abs(ratio - 1) for ratio in ratios)
    bias = math.exp(sum(map(math.log, ratios)) / len(ratios)) - 1
    order = spearman([predicted for predicted, _ in pairs], [measured for _, measured in pairs])
    return Score(group, metric, len(pairs), sum(errors) / len(errors), errors[len(errors) // 2], bias, order)


def regrets(rows: Sequence[Measurement], predicted: Sequence[float]) -> list[Regret]:
    """Layout regret by group, over questions (model, GPU, load) whose throughput was measured under several layouts."""
    questions: dict[tuple[object, ...], list[tuple[float, float]]] = defaultdict(list)
    for row, value in zip(rows, predicted, strict=True):
        if row.metric in ("tokens_s", "tokens_s_gpu"):
            share = row.setup.sharding.ranks if row.metric == "tokens_s" else 1
            questions[row.question].append((value / share, row.value / share))
    lost: dict[str, list[float]] = defaultdict(list)
    for question, layouts in questions.items():
        if len(layouts) > 1:
            best = max(measured for _, measured in layouts)
            lost[str(question[0])].append(1 - max(layouts)[1] / best)
    return [Regret(group, len(values), sum(values) / len(values), max(values)) for group, values in lost.items()]


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """Rank correlation; ties share their mean rank. 1 when there is nothing to order."""
    a, b = _ranks(left), _ranks(right)
    mean = (len(a) + 1) / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    spread = math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))
    return covariance / spread if spread else 1.0


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks, start = [0.0] * len(values), 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            ranks[place] = (start + end) / 2 + 1
        start = end + 1
    return ranks
