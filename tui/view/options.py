"""How the user wants to see it, and what is known of where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from telemetry.snapshot import DeploymentView, RankView, Snapshot

STALE_AFTER_S = 2.0
OFTENEST_S, SELDOMEST_S = 0.25, 4.0  # between two drawings


@dataclass(frozen=True)
class Options:
    deployment: str = ""  # its name; "" or a name that is gone: the first
    form: str = "auto"  # of the ranks: "auto", "grid", "table"
    units: str = "GiB"
    sort: str = "rank"
    filter: str = ""
    rank: int = 0  # the marked one; a number that is gone: the first
    maximised: bool = False  # the middle of the screen has all the room
    every_s: float = OFTENEST_S  # between two drawings that no key asks for


@dataclass(frozen=True)
class Feed:
    """Where the snapshot comes from. `age_s`: of the source's latest one, shown or not."""

    source: str
    age_s: float | None
    problem: str = ""
    paused_s: float | None = None  # since the screen was frozen; the source goes on
    readonly: bool = False
    replay: bool = False  # it is a recording, which has no age, and a line of its own for where it is
    recorded: int | None = None  # bytes of the recording of the deployment that is shown, while the daemon makes one

    @property
    def stale(self) -> bool:
        return self.age_s is not None and self.age_s > STALE_AFTER_S


def chosen(snapshot: Snapshot | None, options: Options) -> DeploymentView | None:
    """The deployment that the screen shows."""
    if snapshot is None or not snapshot.deployments:
        return None
    first = next((d for d in snapshot.deployments if d.state != "STOPPED"), snapshot.deployments[0])
    return next((d for d in snapshot.deployments if d.name == options.deployment), first)


def chosen_rank(deployment: DeploymentView, options: Options) -> RankView | None:
    """The rank that is marked."""
    return next((r for r in deployment.ranks if r.info.rank == options.rank), next(iter(deployment.ranks), None))


def neighbour(snapshot: Snapshot | None, options: Options, step: int) -> str:
    """The name of the deployment `step` places on, around the end."""
    current = chosen(snapshot, options)
    if snapshot is None or current is None:
        return ""
    names = [d.name for d in snapshot.deployments]
    return names[(names.index(current.name) + step) % len(names)]
