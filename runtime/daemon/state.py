"""The states of a deployment, and what a start is at."""

from __future__ import annotations

from enum import StrEnum

from runtime.rank.board import Phase


class State(StrEnum):
    """RECONFIGURING: it keeps what it was asked and takes more, while its ranks are replaced by those of another layout."""

    STARTING = "STARTING"
    READY = "READY"
    RECONFIGURING = "RECONFIGURING"
    DRAINING = "DRAINING"
    RESTARTING = "RESTARTING"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


OVER = (State.FAILED, State.STOPPED)

DRAIN, STOP, LOAD, WARM_UP, REPLAY = "drain", "stop", "load", "warm-up", "replay"
PHASES = {  # of a rank, in words
    Phase.SPAWNED: "spawn",
    Phase.CONNECTING: "connect",
    Phase.LOADING: LOAD,
    Phase.WAITING_KV: "kv",
    Phase.WARMING: WARM_UP,
}
