"""All rules together: what matters most comes first."""

from __future__ import annotations

from telemetry.diagnosis.devices import DEVICES
from telemetry.diagnosis.faults import FAULTS
from telemetry.diagnosis.figures import mean_split
from telemetry.diagnosis.finding import Finding, Rule, percent
from telemetry.diagnosis.members import MEMBERS
from telemetry.diagnosis.stages import STAGES
from telemetry.diagnosis.thresholds import WORTH_SAYING
from telemetry.snapshot import DeploymentView

LOSSES: tuple[Rule, ...] = (*DEVICES, *MEMBERS, *STAGES)

_SEVERITIES = ("error", "warning", "info", "good")


def diagnose(deployment: DeploymentView, window_s: float) -> tuple[Finding, ...]:
    """What there is to say of a deployment whose figures are of the last `window_s`, never nothing.

    Errors come before warnings; among equals what cannot be costed before what can, and the most costly first. While it starts,
    stops or has nothing to do, only faults are told: its figures are of another time. So are they where a rank was suspended.
    """
    found = [finding for rule in FAULTS for finding in rule(deployment)]
    if deployment.state == "READY":
        if not deployment.engine.running and not deployment.engine.waiting:
            found.append(_no_demand(deployment))
        elif not any(finding.kind == "suspended" for finding in found):
            found += [finding for rule in LOSSES for finding in rule(deployment)]
            if not any(finding.severity in ("error", "warning") for finding in found):
                found.append(_fine(deployment, window_s))
    return tuple(sorted(found, key=lambda f: (_SEVERITIES.index(f.severity), f.share_pct is not None, -(f.share_pct or 0.0))))


def _no_demand(deployment: DeploymentView) -> Finding:
    return Finding("no-demand", "good", "no demand, nothing runs or waits", f"{deployment.engine.finished:,} finished so far")


def _fine(deployment: DeploymentView, window_s: float) -> Finding:
    parts = [(mean_split(deployment, name), name) for name in ("compute", "transfer", "wait", "stage", "host")]
    told = [f"{name} {percent(share)}" for share, name in parts if share is not None and share >= 0.5]
    if not told:
        return Finding("fine", "good", "serving", "no step measured yet")
    return Finding("fine", "good", f"no loss above {percent(WORTH_SAYING)}", f"{', '.join(told)}, last {window_s:.0f} s")
