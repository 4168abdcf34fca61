"""What a deployment loses and why: pure rules over a snapshot, each of which finds one cause or nothing."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


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
