"""Faults that a rank commits when the board tells it to: for tests of everything that must survive them."""

from __future__ import annotations

import os
import signal
import time
from enum import IntEnum

from runtime.rank.board import RankStatus


class Fault(IntEnum):
    """`fault_arg` is in microseconds for SLOW. Every fault but SLOW is committed once."""

    NONE = 0
    RAISE = 1  # an exception in the forward
    DIE = 2  # SIGKILL
    FREEZE = 3  # SIGSTOP
    SLOW = 4  # sleep in every step


class InjectedFault(Exception):
    """Raised on request."""


def commit(status: RankStatus) -> None:
    """Do what the board says."""
    fault = Fault(status.fault)
    if fault == Fault.SLOW:
        time.sleep(status.fault_arg / 1e6)
        return
    status.fault = Fault.NONE
    if fault == Fault.RAISE:
        raise InjectedFault("this exception was asked for")
    if fault == Fault.DIE:
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == Fault.FREEZE:
        os.kill(os.getpid(), signal.SIGSTOP)
