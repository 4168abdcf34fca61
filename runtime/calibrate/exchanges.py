"""What ranks send each other, measured as a step uses it: a product, then the exchange, and what that took until it was over."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from runtime.calibrate.parts import uncached_bytes
from runtime.model.linear import Linear
from runtime.parallel.communicator import Communicator
from runtime.parallel.mesh import Mesh

_clock = time.perf_counter
SIZES = (2 << 10, 16 << 10, 128 << 10, 1 << 20, 8 << 20)
SHAPE = (2048, 2048)  # a product of some tenths of a millisecond, which is what lies between two exchanges of a small model
FEWEST = 50  # exchanges

Points = list[list[float]]


class Chain:
    """Products in turn with exchanges, in step with the other ranks."""

    def __init__(self, axis: Communicator, dtype: torch.dtype, device: torch.device, window_s: float) -> None:
        self.axis, self.dtype, self.device = axis, dtype, device
        self._cuda = device.type == "cuda"
        # from memory, as weights come: from caches ranks read more evenly, and wait less for each other
        count = math.ceil(uncached_bytes(device) / (math.prod(SHAPE) * dtype.itemsize))
        self._weights = itertools.cycle([Linear(torch.full(SHAPE, 0.01, dtype=dtype, device=device)) for _ in range(count)])
        self._x = torch.full((1, SHAPE[1]), 0.01, dtype=dtype, device=device)
        start = _clock()
        for _ in range(count):
            self.product()
        each = (_clock() - start) / count
        # every rank must do as many: the first one says how many that is
        turns = torch.tensor([max(FEWEST, window_s / each)], dtype=torch.float64, device=device)
        self.turns = int(axis.broadcast(turns).item())

    def product(self) -> None:
        next(self._weights)(self._x)
        if self._cuda:
            torch.cuda.synchronize()

    def exchange(self, work: Callable[[], object]) -> float:
        """Mean seconds of one, the wait for the slowest included; an interruption in fifty is others' affair."""
        found = []
        for turn in range(self.turns + 2):
            self.product()
            start = _clock()
            work()
            if self._cuda:
                torch.cuda.synchronize()
            if turn > 1:
                found.append(_clock() - start)
        return statistics.fmean(sorted(found)[: max(1, len(found) * 49 // 50)])

    def laps(self, work: Callable[[], object]) -> list[float]:
        """When each of some turns of a product and an exchange was over."""
        self.axis.barrier()
        found = [_clock()]
        for _ in range(4 * self.turns):
            self.product()
            work()
            found.append(_clock())
        return found

    def buffer(self, size: int) -> torch.Tensor:
        return torch.zeros(size // self.dtype.itemsize, dtype=self.dtype, device=self.device)


def all_reduces(chain: Chain) -> Points:
    """[[bytes, seconds], ...]"""
    return [[float(size), chain.exchange(partial(chain.axis.all_reduce, chain.buffer(size)))] for size in SIZES]


def all_to_alls(chain: Chain) -> Points:
    """[[bytes a rank sends in all, seconds], ...], as many to each."""
    found = []
    for size in SIZES:
        rows = chain.buffer(size).view(chain.axis.size * 4, -1)
        counts = torch.full((chain.axis.size, 1), 4, dtype=torch.int64)
        found.append([float(size), chain.exchange(partial(chain.axis.all_to_all, rows, counts))])
    return found


def hand_overs(chain: Chain, mesh: Mesh) -> Points:
    """[[bytes, seconds], ...] from the send of one stage to the other's receipt; known to the second stage alone.

    The message carries its time of sending: all processes of a host read one clock.
    """
    found = []
    for size in SIZES:
        message = torch.zeros(size // 8, dtype=torch.float64, device=chain.device)
        times = []
        for _ in range(FEWEST):
            if mesh.first_stage:
                chain.product()
                message[0] = _clock()
                mesh.pp.send(message, 1)
            else:
                mesh.pp.receive(message, 0)
                times.append(_clock() - float(message[0]))
        if times:
            found.append([float(size), statistics.median(times[2:])])
    return found
