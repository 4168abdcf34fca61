"""Faults that a rank commits when the board tells it to: for tests of everything that must survive them."""

from __future__ import annotations

import os
import signal
import time
from enum import IntEnum
from typing import TYPE_CHECKING

from runtime.rank.board import RankStatus

if TYPE_CHECKING:
    from runtime.rank.executor import Executor


class Fault(IntEnum):
    """`fault_arg` is in microseconds. Every fault but SLOW is committed once; SLOW_FORWARD then lasts until told another time."""

    NONE = 0
    RAISE = 1  # an exception in the forward
    DIE = 2  # SIGKILL
    FREEZE = 3  # SIGSTOP
    SLOW = 4  # sleep in every step, before its work
    SLOW_FORWARD = 5  # sleep in the forward of every step
    LATE = 6  # sleep before the next collective of the first axis that has any: tp, else ep, else pp


class InjectedFault(Exception):
    """Raised on request."""


def commit(status: RankStatus, executor: Executor | None = None) -> None:
    """Do what the board says; what happens inside a step, to `executor`."""
    fault = Fault(status.fault)
    seconds = status.fault_arg / 1e6
    if fault == Fault.SLOW:
        time.sleep(seconds)
        return
    status.fault = Fault.NONE
    if fault == Fault.RAISE:
        raise InjectedFault("this exception was asked for")
    if fault == Fault.DIE:
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == Fault.FREEZE:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif executor is not None and fault == Fault.SLOW_FORWARD:
        executor.slow_s = seconds
    elif executor is not None and fault == Fault.LATE:
        for axis in executor.mesh.axes[:1]:
            axis.late_s = seconds
