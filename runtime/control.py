"""What the daemon can be asked, and its answers: msgpack, typed, strict. One request gets any number of `Progress`, then an `Ok`
or a `Failed`, all with its id.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from telemetry.snapshot import Snapshot

MAX_REQUEST = 1 << 20  # bytes; a peer that sends more is disconnected


class Status(Struct, frozen=True, forbid_unknown_fields=True, tag="status"):
    """Answered with an `Ok` that has `daemon` and `snapshot`."""


class Deploy(Struct, frozen=True, forbid_unknown_fields=True, tag="deploy"):
    """`spec`: the fields of a `DeploymentSpec`; its model is an absolute path. `wait`: answer when it is READY, or has failed."""

    spec: dict[str, Any]
    wait: bool = True


class StopDeployment(Struct, frozen=True, forbid_unknown_fields=True, tag="stop"):
    """Drain and stop it, and forget it. `now`: do not drain. Answered when its last process is gone."""

    name: str
    now: bool = False


Command = Status | Deploy | StopDeployment


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    command: Command


class DaemonInfo(Struct, frozen=True):
    """Also `daemon.json` in the run directory. `started`: unix seconds."""

    pid: int
    http: str  # http://HOST:PORT
    run_dir: str
    started: int
    telemetry: str  # the hub's endpoint for snapshots


class Progress(Struct, frozen=True, tag="progress"):
    """Of a start. `share`: from 0 to 1, of the phase; None: not known."""

    state: str
    generation: int
    phase: str
    share: float | None


class Ok(Struct, frozen=True, tag="ok"):
    daemon: DaemonInfo | None = None
    snapshot: Snapshot | None = None


class Failed(Struct, frozen=True, tag="failed"):
    """`usage`: what was asked cannot be; else it was tried and failed."""

    error: str
    usage: bool = False


class Reply(Struct, frozen=True):
    id: str
    body: Progress | Ok | Failed
