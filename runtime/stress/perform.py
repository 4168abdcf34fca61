"""Makes what was asked for: one load, steps of concurrency, or a sweep over layouts. For the command line and for a screen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from msgspec import Struct

from runtime.client import ControlClient
from runtime.layout import Layout
from runtime.stress.asked import Asked
from runtime.stress.client import Target, context_of
from runtime.stress.plan import ClosedLoop, check
from runtime.stress.progress import Progress, Recording
from runtime.stress.result import Found, Result, Steps, Trial
from runtime.stress.steps import run_steps
from runtime.stress.sweep import Reconfigurable, run_sweep
from runtime.stress.tape import Site, measure
from runtime.stress.values import BadPlan, refuse


class Said(Struct, frozen=True):
    """What goes on where no load does: a layout that is changed to."""

    words: str


News = Progress | Recording | Result | Trial | Said  # a `Result` of a step, a `Trial` of a sweep
Watch = Callable[[News], None]


def local_site(name: str, asked: Asked, run_dir: Path | None, profiles: Path | None) -> Site:
    """A deployment of the daemon in `run_dir`. Raises BadPlan for one, or a rank of one, that there is not, and DaemonError."""
    with ControlClient(run_dir) as client:
        info, snapshot = client.status()
    view = next((each for each in snapshot.deployments if each.name == name), None)
    if view is None:
        known = ", ".join(each.name for each in snapshot.deployments) or "deploy a model first"
        raise refuse("NAME", f"'{name}'", "no such deployment", known)
    for fault in asked.plan.faults:
        if fault.rank >= len(view.ranks):
            rule = f"'{name}' has the ranks 0 to {len(view.ranks) - 1}"
            raise refuse("--fault rank", fault.rank, rule, max(0, len(view.ranks) - 1))
    return Site(Target(info.http, name), True, run_dir, profiles)


def perform(asked: Asked, site: Site, watch: Watch, stop: threading.Event) -> Found:
    """Blocks; `watch` is called in this thread. Raises BadPlan, TargetFailed and DaemonError when it cannot begin."""
    if asked.sweep:
        return _sweep(asked, site, watch, stop)
    check(asked.plan, context_of(site.target))
    if asked.steps is None:
        return measure(asked.plan, site, "", watch, watch, stop)
    return _steps(asked, site, "", watch, stop)


def _steps(asked: Asked, site: Site, label: str, watch: Watch, stop: threading.Event) -> Steps:
    def one(concurrency: int) -> Result:
        plan = replace(asked.plan, pattern=ClosedLoop(concurrency))
        return measure(plan, site, f"{label}c{concurrency}", watch, watch, stop)

    return run_steps(asked.steps or None, one, watch)


def _sweep(asked: Asked, site: Site, watch: Watch, stop: threading.Event) -> Found:
    if not site.local:
        raise BadPlan("--sweep: layouts are changed on local deployments of this daemon alone; nearest that works: no --sweep")

    def steps(layout: Layout) -> Steps:
        check(asked.plan, context_of(site.target))  # each layout's KV cache holds another number of tokens
        return _steps(asked, site, f"{layout}-", watch, stop)

    def say(words: str) -> None:
        watch(Said(words))

    deployment = Reconfigurable(site.run_dir, site.target.name, say, stop)
    return run_sweep(asked.sweep, deployment, steps, watch, stop)
