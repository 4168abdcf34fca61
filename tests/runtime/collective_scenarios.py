"""What ranks do in the tests of collectives, one call or a few at a time."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
from collective_worlds import Rank, until

from runtime.parallel.communicator import Communicator
from telemetry.records import AxisTime

HOLD_S = 0.15


def call(c: Communicator, op: str) -> None:
    if op == "all_to_all":
        c.all_to_all(torch.ones(c.size, 3), torch.ones(c.size, 1, dtype=torch.int64))
    elif op == "reduce_scatter":
        c.reduce_scatter(torch.ones(c.size, 5))
    elif op == "barrier":
        c.barrier()
    else:
        getattr(c, op)(torch.ones(4, 5))


def one_is_late(rank: Rank, op: str, late: int) -> tuple[int, int, AxisTime]:
    """(when I came, when I left, what was measured)."""
    call(rank.communicator, "barrier")
    rank.communicator.take()
    if rank.number == late:
        others = [status for i, status in enumerate(rank.board.ranks) if i != late]
        until(lambda: all(status.op_seq == 2 for status in others), "the others never came")
        time.sleep(HOLD_S)
    came = time.perf_counter_ns()
    call(rank.communicator, op)
    left = time.perf_counter_ns()
    taken = rank.communicator.take()
    assert taken is not None
    return came, left, taken


def die_before(rank: Rank, victim: int, op: str) -> None:
    for _ in range(3):
        call(rank.communicator, "all_gather")
    if rank.number == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    call(rank.communicator, op)


def chain(rank: Rank, messages: int, dtype: torch.dtype) -> AxisTime:
    """Every stage adds one and sends on; the last sees the sum, in order."""
    c, me = rank.communicator, rank.number
    for i in range(messages):
        rows = (0, 1, 3, 50)[i % 4]
        x = torch.full((rows, 7), i % 50, dtype=dtype)
        if me:
            c.receive(x.fill_(-1), me - 1)
            assert torch.equal(x, torch.full_like(x, i % 50 + me)), i
        if me + 1 < rank.size:
            c.send(x + 1, me + 1)
    taken = c.take()
    assert taken is not None
    return taken


def send_ahead(rank: Rank, messages: int) -> tuple[int, AxisTime]:
    """Rank 1 receives nothing until it is told to. (nanoseconds of receives' waiting, what was measured)."""
    c = rank.communicator
    if rank.number == 1:
        rank.go.wait()
    for i in range(messages):
        if rank.number == 0:
            c.send(torch.full((3,), i), 1)
        else:
            assert c.receive(torch.empty(3, dtype=torch.int64), 0).tolist() == [i] * 3
    waited = c.take_receive_wait()
    taken = c.take()
    assert taken is not None
    return waited, taken


def receive_early(rank: Rank) -> tuple[int, int, int, AxisTime]:
    """(when I came, when I sent or left, receive's waiting, the rest)."""
    c, receiver = rank.communicator, rank.board.ranks[1]
    x = torch.ones(4)
    if rank.number == 0:
        until(lambda: receiver.op_seq == 1, "the receiver never came")
        time.sleep(HOLD_S)
        came = time.perf_counter_ns()
        c.send(x, 1)
    else:
        came = time.perf_counter_ns()
        c.receive(x, 0)
    left = time.perf_counter_ns()
    waited = c.take_receive_wait()
    taken = c.take()
    assert taken is not None
    return came, left, waited, taken


def too_large(rank: Rank, elements: int) -> str:
    try:
        rank.communicator.all_reduce(torch.zeros(elements))
    except ValueError as error:
        return str(error)
    return ""


def floats(rank: Rank, seed: int) -> Any:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(seed + rank.number))
    return rank.communicator.all_reduce(x).tolist()
