"""The second line of the screen: what matters most now, with its evidence and, where there is one, a remedy.

What is wrong with a deployment is `telemetry.diagnosis`' to say; here is only what is wrong with seeing it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from telemetry.diagnosis import Finding, diagnose
from telemetry.snapshot import Snapshot
from tui.view.figures import age
from tui.view.options import Feed, Options, chosen

_LEVELS = {"good": "good", "info": "info", "warning": "warn", "error": "bad"}


@dataclass(frozen=True)
class Verdict:
    level: str  # "good", "info", "warn", "bad"
    cause: str
    evidence: str = ""
    remedy: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)  # of a spec that would do the remedy, for the deploy screen


def verdict(snapshot: Snapshot | None, feed: Feed, options: Options) -> Verdict:
    """What the screen says of the chosen deployment; a source that is silent comes before all."""
    if snapshot is None:
        return Verdict("warn" if feed.problem else "info", "waiting for the first data", feed.problem)
    if feed.stale:
        return Verdict("warn", f"no news for {age(feed.age_s)}, these are the last values", feed.problem)
    deployment = chosen(snapshot, options)
    if deployment is None:
        return Verdict("info", "nothing is deployed", remedy="shardscope deploy MODEL --tp 2")
    return presented(diagnose(deployment, snapshot.window_s)[0])


def presented(finding: Finding) -> Verdict:
    """A finding as the screen shows it."""
    return Verdict(_LEVELS[finding.severity], finding.headline, finding.evidence, finding.advice, finding.remedy)
