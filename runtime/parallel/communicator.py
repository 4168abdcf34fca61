"""The measured way to the other ranks: one `Communicator` per axis, and no second path exists.

Every call is numbered, its bytes counted and its time split into *wait* (own arrival to the last rank's) and *transfer*
(from there to the end). Shared memory tells the two apart at the source. Through torch.distributed a call's time is one figure,
counted as transfer (a receive's as wait); on CUDA it is read late, from events, and a send's is that of its launch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist

from runtime.layout import AXES
from runtime.parallel.device_events import DeviceEvents, Event
from runtime.parallel.tally import Tally, size_class
from runtime.rank.board import Op, RankStatus, field
from telemetry.records import AxisTime

_clock = time.perf_counter_ns
_OP_BITS = 4
_RECV = Op.RECV
_OP, _AXIS, _SEQ, _DONE = field("op"), field("op_axis"), field("op_seq"), field("op_done")


class Transport(Protocol):
    """Moves tensors between the members of one axis. Every method returns the nanoseconds waited for others, where known.

    `all_to_all` also the rows received, their counts, and how many rows all members sent together.
    """

    def all_reduce(self, x: torch.Tensor) -> int: ...
    def all_gather(self, x: torch.Tensor, out: torch.Tensor) -> int: ...
    def reduce_scatter(self, x: torch.Tensor, out: torch.Tensor) -> int: ...
    def all_to_all(self, x: torch.Tensor, counts: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor, int]: ...
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

    def all_to_all(self, x: torch.Tensor, counts: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor, int]:
        """Counts first, then rows: the sizes must be known on the host, which costs a CUDA device a synchronisation."""
        size = len(self._ranks)
        gathered = torch.empty((size * size, *counts.shape[1:]), dtype=counts.dtype, device=x.device)
        dist.all_gather_into_tensor(gathered, counts.to(x.device), group=self._group)
        table = gathered.cpu().view(size, *counts.shape)
        received = table[:, self._ranks.index(dist.get_rank())].contiguous()
        send_sizes, receive_sizes, total = counts.sum(1).tolist(), received.sum(1).tolist(), int(table.sum())
        out = x.new_empty((sum(receive_sizes), x.shape[1]))
        dist.all_to_all_single(out, x.contiguous(), receive_sizes, send_sizes, group=self._group)
        return 0, out, received, total

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


class _Call(NamedTuple):
    op: Op
    number: int
    moved: int
    size: int


class _OnDevice:
    """Calls between events of a device, counted once it has passed them, never waited for."""

    def __init__(self, events: DeviceEvents) -> None:
        self._events = events
        self._start: Event | None = None
        self._open: deque[tuple[_Call, Event, Event]] = deque()

    def start(self) -> None:
        self._start = self._events.record()

    def stop(self, call: _Call) -> None:
        assert self._start is not None
        self._open.append((call, self._start, self._events.record()))

    def passed(self, through: int) -> Iterator[tuple[_Call, int]]:
        """The calls up to number `through` that the device has finished, and the nanoseconds that each took."""
        while self._open and self._open[0][0].number <= through and self._open[0][2].query():
            call, first, last = self._open.popleft()
            yield call, int(first.elapsed_time(last) * 1e6)
            self._events.free(first, last)


class Mark(NamedTuple):
    """How far an axis has come: the number of its last call, and the sums over all calls that were counted so far."""

    number: int = 0
    calls: int = 0
    bytes: int = 0
    wait: int = 0  # nanoseconds, like those below
    transfer: int = 0
    receive_wait: int = 0  # of `wait`


class Communicator:
    """One axis of one rank. With a single member every call is the identity and costs nothing.

    Members must make the same calls in the same order. `events`: of the CUDA device that the calls run on. `counts`: what calls
    moved and how long they took is kept until it is taken.
    """

    def __init__(
        self,
        axis: str,
        size: int,
        index: int,
        transport: Transport | None,
        status: RankStatus,
        events: DeviceEvents | None = None,
        counts: bool = True,
    ) -> None:
        if size > 1 and transport is None:
            raise ValueError(f"axis {axis} has {size} members and no transport")
        self.axis, self.size, self.index = axis, size, index
        self.calls = 0  # how many were made so far: the number of the last one
        self.late_s = 0.0  # an injected fault: how late to come to the next call
        self._transport = transport
        self._words = status.words
        self._axis_number = AXES.index(axis)
        self._counts = counts
        self._on_device = _OnDevice(events) if counts and events is not None and size > 1 else None
        self._tallies: dict[int, Tally] = {}  # by size and op: those of one class share one
        self._counted = self._bytes = self._wait = self._transfer = self._receive_wait = 0
        self._taken = Mark()

    @property
    def transport(self) -> Transport:
        assert self._transport is not None
        return self._transport

    def mark(self) -> Mark:
        """How far it has come. On a device calls are counted late: `reached` says what they were."""
        return Mark(self.calls, self._counted, self._bytes, self._wait, self._transfer, self._receive_wait)

    def reached(self, mark: Mark) -> Mark:
        """The mark, with all calls before it counted that a device has finished since; on a host they were already."""
        if self._on_device is None:
            return mark
        for call, ns in self._on_device.passed(mark.number):
            # a receive is mostly waiting
            self._count(*call, *((ns, 0) if call.op is _RECV else (0, ns)))
        return self.mark()

    def take(self, until: Mark | None = None) -> AxisTime | None:
        """What has been measured since the last take, up to a mark or now; None when the axis has one member."""
        if self.size == 1:
            return None
        before, self._taken = self._taken, self.mark() if until is None else until
        _, calls, size, wait, transfer, _ = self._taken
        return AxisTime(calls - before.calls, size - before.bytes, wait - before.wait, transfer - before.transfer)

    def take_receive_wait(self, until: Mark | None = None) -> int:
        """Nanoseconds that receives waited for their senders since the last take, which then leaves them out."""
        to, before = self.mark() if until is None else until, self._taken
        waited = to.receive_wait - before.receive_wait
        self._taken = before._replace(wait=before.wait + waited, receive_wait=to.receive_wait)
        return waited

    def take_tallies(self) -> list[Tally]:
        """All calls that were counted since the last such take, by kind."""
        tallies, self._tallies = list(dict.fromkeys(self._tallies.values())), {}
        return tallies

    def _enter(self, op: Op) -> int:
        if self.late_s:
            time.sleep(self.late_s)
            self.late_s = 0.0
        words = self._words
        self.calls += 1
        words[_OP], words[_AXIS], words[_SEQ], words[_DONE] = op, self._axis_number, self.calls, 0
        if self._on_device is not None:
            self._on_device.start()
        return _clock()

    def _leave(self, op: Op, start: int, waited: int, moved: int, size: int | None = None) -> None:
        """`moved`: bytes to be counted; `size`: the call's, where it is another."""
        if self._on_device is not None:
            self._on_device.stop(_Call(op, self.calls, moved, moved if size is None else size))
        elif self._counts:
            self._count(op, self.calls, moved, moved if size is None else size, waited, _clock() - start - waited)
        self._words[_DONE] = 1

    def _count(self, op: Op, number: int, moved: int, size: int, waited: int, transfer: int) -> None:
        self._counted += 1
        self._wait += waited
        self._transfer += transfer
        if op is _RECV:
            self._receive_wait += waited
        else:
            self._bytes += moved
        tally = self._tallies.get(size << _OP_BITS | op) or self._tally(op, number, size)
        tally.add(moved, waited, transfer)

    def _tally(self, op: Op, number: int, size: int) -> Tally:
        """That of all sizes of one class, found by each."""
        found = next((t for t in self._tallies.values() if t.op == op and t.size_class == size_class(size)), None)
        tally = self._tallies[size << _OP_BITS | op] = found or Tally(op, number, size)
        return tally

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum contiguous `x` over the axis, in place. The bytes counted are x's."""
        if self.size == 1 or not x.numel():
            return x
        start = self._enter(Op.ALL_REDUCE)
        waited = self.transport.all_reduce(x)
        self._leave(Op.ALL_REDUCE, start, waited, x.numel() * x.element_size())
        return x

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """[...] -> [size, ...]. The bytes counted are the result's."""
        if self.size == 1:
            return x.unsqueeze(0)
        out = x.new_empty((self.size, *x.shape))
        start = self._enter(Op.ALL_GATHER)
        waited = self.transport.all_gather(x, out)
        self._leave(Op.ALL_GATHER, start, waited, out.numel() * out.element_size())
        return out

    def reduce_scatter(self, x: torch.Tensor) -> torch.Tensor:
        """[size, ...] -> [...]: the sum over members of their x[index]. The bytes counted are x's."""
        if self.size == 1:
            return x[0]
        out = torch.empty_like(x[0])
        start = self._enter(Op.REDUCE_SCATTER)
        waited = self.transport.reduce_scatter(x, out)
        self._leave(Op.REDUCE_SCATTER, start, waited, x.numel() * x.element_size())
        return out

    def all_to_all(self, x: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Exchange rows. x [rows, width], sorted by destination; counts int64 [size, k]: rows to each, in k classes.

        Returns (rows received, by source; counts received [size, k]). The bytes counted are those of the rows sent; a call's
        size is what members send in the mean, so that all of them count it in one size class.
        """
        if self.size == 1:
            return x, counts
        start = self._enter(Op.ALL_TO_ALL)
        waited, rows, received, total = self.transport.all_to_all(x, counts)
        row = x.shape[1] * x.element_size()
        self._leave(Op.ALL_TO_ALL, start, waited, x.shape[0] * row, total * row // self.size)
        return rows, received

    def broadcast(self, x: torch.Tensor, root: int = 0) -> torch.Tensor:
        if self.size == 1:
            return x
        start = self._enter(Op.BROADCAST)
        waited = self.transport.broadcast(x, root)
        self._leave(Op.BROADCAST, start, waited, x.numel() * x.element_size())
        return x

    def barrier(self) -> None:
        if self.size > 1:
            start = self._enter(Op.BARRIER)
            self._leave(Op.BARRIER, start, self.transport.barrier(), 0)

    def send(self, x: torch.Tensor, to: int) -> None:
        start = self._enter(Op.SEND)
        waited = self.transport.send(x, to)
        self._leave(Op.SEND, start, waited, x.numel() * x.element_size())

    def receive(self, out: torch.Tensor, source: int) -> torch.Tensor:
        """Fill `out`. Of the axis' bytes it is none: the sender counts them."""
        start = self._enter(Op.RECV)
        waited = self.transport.receive(out, source)
        self._leave(Op.RECV, start, waited, out.numel() * out.element_size())
        return out
