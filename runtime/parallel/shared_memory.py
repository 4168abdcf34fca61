"""Collectives between ranks of one host through shared memory, in plain stores, loads and torch operators.

A collective copies a rank's part into its slot, raises the rank's flag to the collective's number, waits for the other
flags and reads the others' slots. Two banks alternate: whoever has all flags at n+1 knows that everybody has left n, so
n+2 may overwrite n's bank. x86 keeps stores in order, so a raised flag means that the slot is whole.
"""

from __future__ import annotations

import mmap
import os
import time

import torch

from runtime.layout import Layout
from runtime.parallel.segment import BANKS, LINE, Region, SegmentMap

_clock = time.perf_counter_ns

SPINS_OWN_CORE = 4000
SPINS_SHARED_CORE = 20
YIELD_NS = 1_000_000
SLEEP_S = 50e-6


class Flags:
    """Numbers that one rank writes and others wait for, a cache line apart."""

    def __init__(self, view: memoryview, count: int, own_core: bool) -> None:
        self._words = view[: count * LINE].cast("q")
        self._spins = SPINS_OWN_CORE if own_core else SPINS_SHARED_CORE

    def raise_to(self, index: int, number: int) -> None:
        self._words[index * 8] = number

    def get(self, index: int) -> int:
        return self._words[index * 8]

    def wait(self, index: int, number: int) -> None:
        """Return once the flag is at `number` or above: look a bounded number of times, then yield the core, then sleep.

        A peer that died never raises its flag: the supervisor ends this process too.
        """
        words, at = self._words, index * 8
        for _ in range(self._spins):
            if words[at] >= number:
                return
        deadline = _clock() + YIELD_NS
        while words[at] < number:
            if _clock() < deadline:
                os.sched_yield()
            else:
                time.sleep(SLEEP_S)


class Station:
    """The meeting point of one group: every member calls the same operations in the same order.

    Each operation returns the nanoseconds that it waited for the last member.
    """

    def __init__(self, segment: mmap.mmap, region: Region, index: int, size: int, own_core: bool) -> None:
        self.index, self.size = index, size
        self._slot_bytes = region.slot_bytes
        self._flags = Flags(memoryview(segment)[region.offset : region.data], size, own_core)
        raw = torch.frombuffer(segment, dtype=torch.uint8, offset=region.data, count=region.slots * region.slot_bytes)
        self._banks = raw.view(BANKS, size, region.slot_bytes)
        self._number = 0
        self._views: dict[tuple[int, torch.dtype], list[torch.Tensor]] = {}

    def _bank(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """This turn's bank as [size, count] of `dtype`."""
        key = (count, dtype)
        views = self._views.get(key)
        if views is None:
            length = count * dtype.itemsize
            if length > self._slot_bytes:
                raise ValueError(f"a message of {length} bytes does not fit the segment's slots of {self._slot_bytes}")
            views = self._views[key] = [self._banks[b, :, :length].view(dtype) for b in range(BANKS)]
        return views[(self._number + 1) % BANKS]

    def _meet(self) -> int:
        """Raise the own flag, wait for all others."""
        self._number += 1
        flags, number = self._flags, self._number
        flags.raise_to(self.index, number)
        start = _clock()
        for other in range(self.size):
            if other != self.index:
                flags.wait(other, number)
        return _clock() - start

    def all_reduce(self, x: torch.Tensor) -> int:
        """Sum `x` over the group, in place; every member adds in the same order and gets the same bits."""
        flat = x.view(-1)
        bank = self._bank(flat.numel(), x.dtype)
        bank[self.index].copy_(flat)
        waited = self._meet()
        if self.size == 2:
            torch.add(bank[0], bank[1], out=flat)
        else:
            torch.sum(bank, dim=0, out=flat)
        return waited

    def all_gather(self, x: torch.Tensor, out: torch.Tensor) -> int:
        """out [size, *x.shape] <- every member's x."""
        bank = self._bank(x.numel(), x.dtype)
        bank[self.index].copy_(x.reshape(-1))
        waited = self._meet()
        out.view(self.size, -1).copy_(bank)
        return waited

    def reduce_scatter(self, x: torch.Tensor, out: torch.Tensor) -> int:
        """x [size, ...]; out [...] <- the sum over members of their x[index]."""
        bank = self._bank(x.numel(), x.dtype)
        bank[self.index].copy_(x.reshape(-1))
        waited = self._meet()
        torch.sum(bank.view(self.size, self.size, -1)[:, self.index], dim=0, out=out.view(-1))
        return waited

    def broadcast(self, x: torch.Tensor, root: int) -> int:
        bank = self._bank(x.numel(), x.dtype)
        if self.index == root:
            bank[root].copy_(x.reshape(-1))
        waited = self._meet()
        if self.index != root:
            x.copy_(bank[root].view_as(x))
        return waited

    def barrier(self) -> int:
        return self._meet()

    def all_to_all(self, x: torch.Tensor, counts: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor, int]:
        """Send x's rows, sorted by destination; `counts` int64 [size, k]: rows to each destination, in k classes.

        Returns (waited, rows received by source, counts received [size, k], rows that all sent). The counts travel in front of
        the rows.
        """
        row_bytes = x.element_size() * x.shape[1]
        header = counts.numel() * 8
        data = -(-header // LINE) * LINE
        self._bank(data + x.shape[0] * row_bytes, torch.uint8)
        bank = self._banks[(self._number + 1) % BANKS]
        mine = bank[self.index]
        mine[:header].view(torch.int64).copy_(counts.reshape(-1))
        mine[data : data + x.shape[0] * row_bytes].view(x.dtype).copy_(x.reshape(-1))
        waited = self._meet()
        table = bank[:, :header].view(torch.int64).view(self.size, self.size, -1)
        sent = table.sum(2).tolist()
        parts = []
        for source in range(self.size):
            start = data + sum(sent[source][: self.index]) * row_bytes
            stop = start + sent[source][self.index] * row_bytes
            parts.append(bank[source, start:stop].view(x.dtype).view(-1, x.shape[1]))
        return waited, torch.cat(parts), table[:, self.index].clone(), sum(map(sum, sent))


class Channel:
    """A one-way ring from one rank to another: a send copies and goes on, a receive waits for the copy."""

    def __init__(self, segment: mmap.mmap, region: Region, own_core: bool) -> None:
        self._flags = Flags(memoryview(segment)[region.offset : region.data], 2, own_core)  # 0: written, 1: read
        raw = torch.frombuffer(segment, dtype=torch.uint8, offset=region.data, count=region.slots * region.slot_bytes)
        self._slots = raw.view(region.slots, region.slot_bytes)
        self._number = 0

    def _slot(self, x: torch.Tensor) -> torch.Tensor:
        slot = self._slots[self._number % self._slots.shape[0]]
        length = x.numel() * x.element_size()
        if length > slot.numel():
            raise ValueError(f"a message of {length} bytes does not fit the channel's slots of {slot.numel()}")
        return slot[:length].view(x.dtype).view_as(x)

    def send(self, x: torch.Tensor) -> int:
        """Returns the nanoseconds waited for a free slot."""
        start = _clock()
        self._flags.wait(1, self._number + 1 - self._slots.shape[0])
        waited = _clock() - start
        self._slot(x).copy_(x)
        self._number += 1
        self._flags.raise_to(0, self._number)
        return waited

    def receive(self, out: torch.Tensor) -> int:
        """Returns the nanoseconds waited for the sender."""
        start = _clock()
        self._flags.wait(0, self._number + 1)
        waited = _clock() - start
        out.copy_(self._slot(out))
        self._number += 1
        self._flags.raise_to(1, self._number)
        return waited


class SharedMemoryTransport:
    """Both ways of one axis of one rank: its station (tp, ep) or its channels to the neighbouring stages (pp)."""

    def __init__(self, segment: mmap.mmap, places: SegmentMap, layout: Layout, rank: int, axis: str, own_core: bool) -> None:
        group = layout.group(rank, axis)
        self._station = None
        if group in places.stations and axis != "pp":
            self._station = Station(segment, places.stations[group], group.index(rank), len(group), own_core)
        self._channels = {pair: Channel(segment, region, own_core) for pair, region in places.channels.items() if rank in pair}
        self._group, self._rank = group, rank

    @property
    def station(self) -> Station:
        if self._station is None:
            raise ValueError(f"ranks {self._group} have no meeting point")
        return self._station

    def all_reduce(self, x: torch.Tensor) -> int:
        return self.station.all_reduce(x)

    def all_gather(self, x: torch.Tensor, out: torch.Tensor) -> int:
        return self.station.all_gather(x, out)

    def reduce_scatter(self, x: torch.Tensor, out: torch.Tensor) -> int:
        return self.station.reduce_scatter(x, out)

    def all_to_all(self, x: torch.Tensor, counts: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor, int]:
        return self.station.all_to_all(x, counts)

    def broadcast(self, x: torch.Tensor, root: int) -> int:
        return self.station.broadcast(x, root)

    def barrier(self) -> int:
        return self.station.barrier()

    def send(self, x: torch.Tensor, to: int) -> int:
        return self._channels[self._rank, self._group[to]].send(x)

    def receive(self, out: torch.Tensor, source: int) -> int:
        return self._channels[self._group[source], self._rank].receive(out)


def open_segment(fd: int, size: int) -> mmap.mmap:
    return mmap.mmap(fd, size)
