"""What a rule finds, and the words that all rules use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from telemetry.snapshot import DeploymentView, RankView


class Finding(Struct, frozen=True):
    """One cause of loss, or the word that there is none.

    `share_pct`: what it costs, in percent of the time with work, where that can be told. `remedy`: fields of a
    `DeploymentSpec` that would mend it, for the deploy screen; empty where no setting does.
    """

    kind: str
    severity: str  # "good", "info", "warning", "error"
    headline: str
    evidence: str = ""
    advice: str = ""
    ranks: tuple[int, ...] = ()
    share_pct: float | None = None
    remedy: dict[str, Any] = {}


Rule = Callable[[DeploymentView], Iterable[Finding]]


def percent(value: float) -> str:
    return f"{value:.0f}%"


def ms(value: float) -> str:
    """Without its unit."""
    return f"{value:,.0f}" if value >= 99.95 else "0" if value == 0 else f"{value:.2f}" if value < 0.995 else f"{value:.1f}"


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"


def numbers(ranks: Iterable[RankView]) -> tuple[int, ...]:
    return tuple(sorted(rank.info.rank for rank in ranks))


def names(ranks: Iterable[RankView]) -> str:
    """`rank 3`, `ranks 1, 2, 5`."""
    found = numbers(ranks)
    return f"rank{'s' if len(found) > 1 else ''} {', '.join(map(str, found[:8]))}{', ...' if len(found) > 8 else ''}"
