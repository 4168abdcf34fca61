"""The measured way to the other ranks: one `Communicator` per axis, and no second path exists.

Every call is numbered, its bytes counted and its time split into *wait* (own arrival to the last rank's) and *transfer*
(from there to the end). Shared memory tells the two apart at the source. Through torch.distributed the time of a call on CPU is
one figure, counted as transfer, and on CUDA it is read late from pooled events.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

import torch
import torch.distributed as dist

from runtime.layout import AXES
from runtime.rank.board import Op, RankStatus, field
from telemetry.records import AxisTime

_clock = time.perf_counter_ns
_OP, _AXIS, _SEQ, _DONE = field("op"), field("op_axis"), field("op_seq"), field("op_done")


class Transport(Protocol):
    """Moves tensors between the members of one axis. Every method returns the nanoseconds waited for others, where known."""

    def all_reduce(self, x: torch.Tensor) -> int: ...
    def all_gather(self, x: torch.Tensor, out: torch.Tensor) -> int: ...
    def reduce_scatter(self, x: torch.Tensor, out: torch.Tensor) -> int: ...
    def all_to_all(self, x: torch.Tensor, counts: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]: ...
    def broadcast(self, x: torch.Tensor, root: int) -> int: ...
    def barrier(self) -> int: ...
    def send(self, x: torch.Tensor, to: int) -> int: ...
    def receive(self, out: torch.Tensor, source: int) -> int: ...


class DistributedTransport:
    """torch.distributed: NCCL between GPUs, gloo between hosts or where stores are not kept in order."""

    def __init__(self, group: dist.ProcessGroup, ranks: tuple[int, ...]) -> None:
        self._group, self._ranks = group, ranks
        self._sends: deque[tuple[dist.Work, torch.Tensor]] = deque()

    def all_reduce(self, x: torch.Tensor) -> int:
        dist.all_reduce(x, group=self._group)
        return 0

    def all_gather(self, x: torch.Tensor, out: torch.Tensor) -> int:
        dist.all_gather_into_tensor(out.view(-1, *x.shape[1:]) if x.dim() else out, x.contiguous(), group=self._group)
        return 0

    def reduce_scatter(self, x: torch.Tensor, out: torch.Tensor) -> int:
        dist.reduce_scatter_tensor(out, x.contiguous().view(-1, *out.shape[1:]) if out.dim() else x, group=self._group)
        return 0

    def all_to_all(self, x: torch.Tensor, counts: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Counts first, then rows: the sizes must be known on the host, which costs a CUDA device a synchronisation."""
        there = counts.to(x.device)
        received = torch.empty_like(there)
        dist.all_to_all_single(received, there, group=self._group)
        send_sizes, receive_sizes = counts.sum(1).tolist(), received.sum(1).tolist()
        out = x.new_empty((sum(receive_sizes), x.shape[1]))
        dist.all_to_all_single(out, x.contiguous(), receive_sizes, send_sizes, group=self._group)
        return 0, out, received

    def broadcast(self, x: torch.Tensor, root: int) -> int:
        dist.broadcast(x, src=self._ranks[root], group=self._group)
        return 0

    def barrier(self) -> int:
        dist.barrier(group=self._group)
        return 0

    def send(self, x: torch.Tensor, to: int) -> int:
        """Asynchronous: the message is kept until it has left, so that a stage goes on with its next micro-batch."""
        while self._sends and self._sends[0][0].is_completed():
            self._sends.popleft()
        copy = x.clone()
        work = dist.isend(copy, dst=self._ranks[to], group=self._group)
        if work is not None:
            self._sends.append((work, copy))
        return 0

    def receive(self, out: torch.Tensor, source: int) -> int:
        """On CPU a receive is mostly waiting: its time counts as wait."""
        start = _clock()
        dist.recv(out, src=self._ranks[source], group=self._group)
        return 0 if out.is_cuda else _clock() - start


class _DeviceTimes:
    """Pooled CUDA events around calls, read once the device has passed them, never waited for."""

    def __init__(self) -> None:
        self._free: list[torch.cuda.Event] = []
        self._open: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def start(self) -> torch.cuda.Event:
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stop(self, start: torch.cuda.Event) -> None:
        self._open.append((start, self.start()))

    def read(self) -> int:
        """Nanoseconds of all the calls that the device finished since the last read."""
        total = 0
        while self._open and self._open[0][1].query():
            first, last = self._open.popleft()
            total += int(first.elapsed_time(last) * 1e6)
            self._free += [first, last]
        return total


class Communicator:
    """One axis of one rank. With a single member every call is the identity and costs nothing.

    Members must make the same calls in the same order.
    """

    def __init__(
        self, axis: str, size: int, index: int, transport: Transport | None, status: RankStatus, cuda: bool = False
    ) -> None:
        if size > 1 and transport is None:
            raise ValueError(f"axis {axis} has {size} members and no transport")
        self.axis, self.size, self.index = axis, size, index
        self._transport = transport
        self._words = status.words
        self._axis_number = AXES.index(axis)
        self._sequence = 0
        self._device = _DeviceTimes() if cuda and size > 1 else None
        self._calls = self._bytes = self._wait = self._transfer = self._receive_wait = 0

    @property
    def transport(self) -> Transport:
        assert self._transport is not None
        return self._transport

    def take(self) -> AxisTime | None:
        """What has been measured since the last take; None when the axis has one member."""
        if self.size == 1:
            return None
        if self._device is not None:
            self._transfer += self._device.read()
        taken = AxisTime(self._calls, self._bytes, self._wait, self._transfer)
        self._calls = self._bytes = self._wait = self._transfer = self._receive_wait = 0
        return taken

    def take_receive_wait(self) -> int:
        """Nanoseconds that receives waited for their senders since the last take, which then leaves them out."""
        waited, self._receive_wait = self._receive_wait, 0
        self._wait -= waited
        return waited

    @property
    def spent_ns(self) -> int:
        """Host nanoseconds inside calls since the last take."""
        return self._wait + self._transfer

    def _enter(self, op: Op) -> int:
        words = self._words
        self._sequence += 1
        words[_OP], words[_AXIS], words[_SEQ], words[_DONE] = op, self._axis_number, self._sequence, 0
        return _clock()

    def _leave(self, start: int, waited: int, size: int) -> None:
        self._words[_DONE] = 1
        self._calls += 1
        self._bytes += size
        self._wait += waited
        if self._device is None:
            self._transfer += _clock() - start - waited

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum contiguous `x` over the axis, in place. The bytes counted are x's."""
        if self.size == 1 or not x.numel():
            return x
        start = self._enter(Op.ALL_REDUCE)
        event = self._device.start() if self._device else None
        waited = self.transport.all_reduce(x)
        if event is not None and self._device:
            self._device.stop(event)
        self._leave(start, waited, x.numel() * x.element_size())
        return x

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """[...] -> [size, ...]. The bytes counted are the result's."""
        if self.size == 1:
            return x.unsqueeze(0)
        out = x.new_empty((self.size, *x.shape))
        start = self._enter(Op.ALL_GATHER)
        waited = self.transport.all_gather(x, out)
        self._leave(start, waited, out.numel() * out.element_size())
        return out

    def reduce_scatter(self, x: torch.Tensor) -> torch.Tensor:
        """[size, ...] -> [...]: the sum over members of their x[index]. The bytes counted are x's."""
        if self.size == 1:
            return x[0]
        out = torch.empty_like(x[0])
        start = self._enter(Op.REDUCE_SCATTER)
        waited = self.transport.reduce_scatter(x, out)
        self._leave(start, waited, x.numel() * x.element_size())
        return out

    def all_to_all(self, x: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Exchange rows. x [rows, width], sorted by destination; counts int64 [size, k]: rows to each, in k classes.

        Returns (rows received, by source; counts received [size, k]). The bytes counted are the rows sent.
        """
        if self.size == 1:
            return x, counts
        start = self._enter(Op.ALL_TO_ALL)
        waited, rows, received = self.transport.all_to_all(x, counts)
        self._leave(start, waited, x.numel() * x.element_size())
        return rows, received

    def broadcast(self, x: torch.Tensor, root: int = 0) -> torch.Tensor:
        if self.size == 1:
            return x
        start = self._enter(Op.BROADCAST)
        waited = self.transport.broadcast(x, root)
        self._leave(start, waited, x.numel() * x.element_size())
        return x

    def barrier(self) -> None:
        if self.size > 1:
            start = self._enter(Op.BARRIER)
            self._leave(start, self.transport.barrier(), 0)

    def send(self, x: torch.Tensor, to: int) -> None:
        start = self._enter(Op.SEND)
        waited = self.transport.send(x, to)
        self._leave(start, waited, x.numel() * x.element_size())

    def receive(self, out: torch.Tensor, source: int) -> torch.Tensor:
        """Fill `out`. Its bytes are counted by the sender."""
        start = self._enter(Op.RECV)
        waited = self.transport.receive(out, source)
        self._receive_wait += waited
        self._leave(start, waited, 0)
        return out
