"""Which ranks, in which order: by their place in the layout, by a filter, by a figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from telemetry.diagnosis.figures import grouped
from telemetry.snapshot import DeploymentView, RankView
from tui.view.filters import passes
from tui.view.options import Options, chosen_rank

_FIGURES: dict[str, Callable[[RankView], float | None]] = {
    "rank": lambda rank: rank.info.rank,
    "util": lambda rank: rank.util,
    "memory": lambda rank: rank.memory.used,
    "bubble": lambda rank: rank.bubble_pct,
    "all-reduce": lambda rank: rank.allreduce_ms,
    "step": lambda rank: rank.step_ms,
    "tok/s": lambda rank: rank.tokens_per_s,
}
SORTS = tuple(_FIGURES)
FILTER_HELP = "r3  p1  t0  cuda:2  READY  util>80  bubble>10  (all must hold)"


def stage_name(deployment: DeploymentView, ranks: Sequence[RankView]) -> str:
    """`replica 0 stage 1`, less what the layout has only one of."""
    info = ranks[0].info
    replica = f"replica {info.dp}" if deployment.layout.get("dp", 1) > 1 else ""
    stage = f"stage {info.pp}" if deployment.layout.get("pp", 1) > 1 or not replica else ""
    return " ".join(name for name in (replica, stage) if name)


def opens(rank: RankView) -> str:
    """The action of a click on its name."""
    return f"screen.open_rank({rank.info.rank})"


def place(deployment: DeploymentView, rank: RankView) -> str:
    """`d0p1e0t3`, less the axes that the layout does not use."""
    used = [axis for axis in ("dp", "pp", "ep", "tp") if deployment.layout.get(axis, 1) > 1]
    return "".join(f"{axis[0]}{getattr(rank.info, axis)}" for axis in used)


def column_name(deployment: DeploymentView, rank: RankView) -> str:
    """The place within a stage: `e0 t3`."""
    used = [axis for axis in ("ep", "tp") if deployment.layout.get(axis, 1) > 1]
    return " ".join(f"{axis[0]}{getattr(rank.info, axis)}" for axis in used)


def arranged(ranks: Iterable[RankView], expression: str, sort: str) -> list[RankView]:
    """The ranks that pass the filter; by number, or greatest first with the unavailable last."""
    kept = [rank for rank in ranks if not expression or matches(rank, expression)]
    figure = _FIGURES.get(sort, _FIGURES["rank"])
    if sort == "rank":
        return sorted(kept, key=lambda rank: rank.info.rank)

    def greatest_first(rank: RankView) -> tuple[bool, float, int]:
        value = figure(rank)
        return value is None, -(value or 0.0), rank.info.rank

    return sorted(kept, key=greatest_first)


def moved(deployment: DeploymentView, options: Options, step: int, by_stage: bool) -> int:
    """The number of the rank that is marked after `step` places: in the order of the table, or to the same column of another
    stage. At the ends it stays."""
    marked = chosen_rank(deployment, options)
    if marked is None:
        return 0
    if not by_stage:
        return _along([r.info.rank for r in arranged(deployment.ranks, options.filter, options.sort)], marked.info.rank, step)
    stages = [[rank.info.rank for rank in stage] for stage in grouped(deployment.ranks, "dp", "pp")]
    stage = next(stage for stage in stages if marked.info.rank in stage)
    there = stages[max(0, min(len(stages) - 1, stages.index(stage) + step))]
    return there[min(stage.index(marked.info.rank), len(there) - 1)]


def _along(ranks: list[int], here: int, step: int) -> int:
    if here not in ranks:
        return ranks[0] if ranks else here
    return ranks[max(0, min(len(ranks) - 1, ranks.index(here) + step))]


def matches(rank: RankView, expression: str) -> bool:
    """Every word of the expression holds: a comparison of a figure, or the beginning of one of the rank's names."""
    info = rank.info
    names = [f"r{info.rank}", f"d{info.dp}", f"p{info.pp}", f"e{info.ep}", f"t{info.tp}", info.device.lower(), rank.state.lower()]
    return passes(expression, names, {name: partial(figure, rank) for name, figure in _FIGURES.items()})
