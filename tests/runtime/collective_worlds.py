"""Worlds of real processes that meet in collectives: made by a fork server that has imported torch, each rank with a board.

A scenario is a function of a rank's `Rank` and returns something that can be pickled.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from runtime.layout import Layout
from runtime.parallel.communicator import Communicator, DistributedTransport, Transport
from runtime.parallel.segment import map_segment
from runtime.parallel.shared_memory import SharedMemoryTransport, open_segment
from runtime.rank.board import Board

CONTEXT = multiprocessing.get_context("forkserver")
# not ourselves: the fork server does not look where pytest has found us
CONTEXT.set_forkserver_preload(["torch.distributed", "runtime.parallel.communicator", "runtime.parallel.shared_memory"])
SLOT = 1 << 18
CHANNEL = 1 << 14
TIMEOUT_S = 60.0


@dataclass
class Rank:
    """What a scenario has. `go`: set by the parent, or by another rank."""

    number: int
    size: int
    communicator: Communicator
    board: Board
    go: Any


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that announces itself to nobody."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.001)


class World:
    """Processes that run `scenario` on each rank of one axis. Leave the `with` to end whoever still lives."""

    def __init__(
        self, size: int, axis: str, scenario: Callable[..., Any], *arguments: Any, store: str = "", spin: bool = False
    ) -> None:
        self.board = Board.create(size)
        self.go = CONTEXT.Event()
        self._segment = os.memfd_create("test-segment")
        layout = Layout(**{axis: size})
        os.ftruncate(self._segment, map_segment(layout, SLOT, CHANNEL, 2 * size).size)
        self.pipes, self.processes = [], []
        for rank in range(size):
            mine, theirs = CONTEXT.Pipe()
            places = (os.getpid(), self.board.fd, self._segment)
            process = CONTEXT.Process(
                target=_live, args=(theirs, places, rank, size, axis, self.go, store, spin, scenario, arguments), daemon=True
            )
            process.start()
            theirs.close()
            self.pipes.append(mine)
            self.processes.append(process)

    def results(self) -> list[Any]:
        found = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(TIMEOUT_S):
                raise TimeoutError(f"rank {rank} does not answer: {[(s.op, s.op_seq, s.op_done) for s in self.board.ranks]}")
            error, result = pipe.recv()
            assert not error, f"rank {rank}: {error}"
            found.append(result)
        return found

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        for fd in (self._segment, self.board.fd):
            os.close(fd)


def _live(
    pipe: Any,
    places: tuple[int, int, int],
    rank: int,
    size: int,
    axis: str,
    go: Any,
    store: str,
    spin: bool,
    scenario: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    try:
        torch.set_num_threads(1)
        parent, board_fd, segment_fd = places
        board = Board(os.open(f"/proc/{parent}/fd/{board_fd}", os.O_RDWR), size)
        layout = Layout(**{axis: size})
        transport: Transport
        if store:
            dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
            transport = DistributedTransport(dist.new_group(list(range(size))), tuple(range(size)))
        else:
            regions = map_segment(layout, SLOT, CHANNEL, 2 * size)
            segment = open_segment(os.open(f"/proc/{parent}/fd/{segment_fd}", os.O_RDWR), regions.size)
            transport = SharedMemoryTransport(segment, regions, layout, rank, axis, spin)
        communicator = Communicator(axis, size, rank, transport, board.ranks[rank])
        pipe.send(("", scenario(Rank(rank, size, communicator, board, go), *arguments)))
        if store:
            dist.destroy_process_group()
    except BaseException:
        pipe.send((traceback.format_exc(), None))


@contextmanager
def _data(size: int, dtype: torch.dtype, whole: bool) -> Iterator[Callable[[int, int, int], torch.Tensor]]:
    """Slices of each rank's own numbers, which all ranks can compute. Whole ones are summed exactly in any order."""
    made = torch.Generator().manual_seed(size)
    pools = [
        torch.randint(-4, 5, (1 << 16,), generator=made) if whole else torch.randn(1 << 16, generator=made) for _ in range(size)
    ]
    pools = [pool.to(dtype) for pool in pools]
    yield lambda rank, start, count: pools[rank][start : start + count]


OPS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "barrier")


def many(rank: Rank, calls: int, dtype: torch.dtype, whole: bool = True) -> tuple[str, str, int]:
    """Random operations of random sizes, each checked (if `whole`). (own digest, digest of what all share, bytes expected)."""
    numbers, c, me, n = random.Random(calls), rank.communicator, rank.number, rank.size
    own, shared, counted = hashlib.sha256(), hashlib.sha256(), 0
    with _data(n, dtype, whole) as data:
        for _ in range(calls):
            op, start = numbers.choice(OPS), numbers.randrange(1 << 15)
            shape = (numbers.choice([1, 2, 7, 33]), numbers.choice([1, 3, 16, 100]))
            count = shape[0] * shape[1]
            mine = data(me, start, count).clone().view(shape)
            every = [data(r, start, count).view(shape) for r in range(n)]
            if op == "all_reduce":
                got, expected, moved = c.all_reduce(mine), sum(every), count
                shared.update(got.view(torch.uint8).numpy().tobytes())
            elif op == "all_gather":
                got, expected, moved = c.all_gather(mine), torch.stack(every), count * n
                shared.update(got.view(torch.uint8).numpy().tobytes())
            elif op == "reduce_scatter":
                mine = data(me, start, count * n).clone().view(n, *shape)
                got = c.reduce_scatter(mine)
                expected, moved = sum(data(r, start, count * n).view(n, *shape)[me] for r in range(n)), count * n
            elif op == "broadcast":
                root = numbers.randrange(n)
                got, expected, moved = c.broadcast(mine, root), every[root], count
            elif op == "all_to_all":
                got, expected, moved = _exchange(rank, numbers, data, start, shape[1])
            else:
                c.barrier()
                continue
            counted += moved * dtype.itemsize
            own.update(got.contiguous().view(torch.uint8).numpy().tobytes())
            if whole or op not in ("all_reduce", "reduce_scatter"):
                assert torch.equal(got, expected), (op, shape)
            else:
                expected = sum(part.float() for part in every) if op == "all_reduce" else expected.float()
                torch.testing.assert_close(got.float(), expected, rtol=0.02, atol=0.08)
    taken = c.take()
    assert taken is not None
    assert taken.calls == calls
    assert taken.bytes == counted
    assert c.take() == type(taken)()
    return own.hexdigest(), shared.hexdigest(), counted


def _exchange(rank: Rank, numbers: random.Random, data: Any, start: int, width: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    n, me, classes = rank.size, rank.number, numbers.choice([1, 2, 5])
    most = numbers.choice([0, 1, 4])  # with 0 nobody sends anything
    tables = [torch.tensor([[numbers.randint(0, most) for _ in range(classes)] for _ in range(n)]) for _ in range(n)]
    rows = [data(r, start, int(tables[r].sum()) * width).view(-1, width) for r in range(n)]
    got, received = rank.communicator.all_to_all(rows[me], tables[me])
    assert torch.equal(received, torch.stack([table[me] for table in tables]))
    parts = [rows[r].split(tables[r].sum(1).tolist())[me] for r in range(n)]
    return got, torch.cat(parts), rows[me].numel()
