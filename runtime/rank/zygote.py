"""The process that makes ranks: it imports what a rank needs once, then forks one in milliseconds at each order.

`python -m runtime.rank.zygote ORDERS_FD RANK_MODULE`, started by `runtime.rank.nursery.Zygote`. The module's `main(config)` is a
rank's life; `prepare(config)`, if it has one, runs here before a fork, for what ranks inherit. The zygote stays single-threaded
and opens no ZeroMQ context and no device, so that a fork is whole. It ends, and every rank with it, when its parent does.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import select
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import msgspec

from runtime import child
from runtime.layout import Layout
from runtime.rank.board import Board, Phase
from runtime.rank.config import RankConfig
from runtime.rank.nursery import MAX_MESSAGE, Exited, Fork, Forked, NotForked, Report, Suspension

RankMain = Callable[[RankConfig], None]
Prepare = Callable[[RankConfig], None]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Fork).decode


@dataclass(frozen=True)
class _Rank:
    rank: int
    pid: int
    pidfd: int
    channel: socket.socket

    def report(self, report: Report, fds: list[int] | None = None) -> bool:
        """False: nobody listens any more."""
        try:
            socket.send_fds(self.channel, [_encode(report)], fds or [])
        except OSError:
            return False
        return True

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        os.close(self.pidfd)
        self.channel.close()


class _Nest:
    """The ranks that live, and what wakes us: an order, a rank's death, a group that closed its channel."""

    def __init__(self, orders: socket.socket, rank_main: RankMain, prepare: Prepare) -> None:
        self._orders = orders
        self._main, self._prepare = rank_main, prepare
        self._ranks: dict[int, _Rank] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(orders, selectors.EVENT_READ, self._order)
        # a pidfd tells of a death only; of children that are stopped, and go on, SIGCHLD tells
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._look)

    def serve(self) -> None:
        """Until the parent closes its end of the orders."""
        while self._orders.fileno() >= 0:
            for key, _events in self._selector.select():
                key.data()
        for rank in self._ranks.values():
            rank.kill()

    def _order(self) -> None:
        try:
            data, fds, _flags, _address = socket.recv_fds(self._orders, MAX_MESSAGE, 3, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            data, fds = b"", []
        if not data:
            self._selector.unregister(self._orders)
            self._orders.close()
            return
        channel, *memory = fds
        self._fork(_decode(data).config, socket.socket(fileno=channel), memory)
        for fd in memory:
            os.close(fd)

    def _fork(self, config: RankConfig, channel: socket.socket, memory: list[int]) -> None:
        board_fd, segment_fd = memory[0], memory[1] if len(memory) > 1 else -1
        if select.select([channel], [], [], 0)[0]:
            channel.close()  # the group has gone since it asked: its channel speaks only by its end
            return
        config = msgspec.structs.replace(config, board_fd=board_fd, segment_fd=segment_fd)
        parent = os.getpid()
        with suppress(Exception):  # a rank meets it again, and then it is told
            self._prepare(config)
        try:
            pid = os.fork()
        except OSError as error:
            with channel, suppress(OSError):
                socket.send_fds(channel, [_encode(NotForked(config.rank, f"cannot fork: {error}"))], [])
            return
        if pid == 0:
            channel.close()
            self._forget()
            _live(config, parent, self._main)
        rank = _Rank(config.rank, pid, os.pidfd_open(pid), channel)
        self._ranks[pid] = rank
        self._selector.register(rank.pidfd, selectors.EVENT_READ, lambda: self._reap(rank))
        # a group never speaks on its channel: readable means closed
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._orphan(rank))
        rank.report(Forked(rank.rank, pid), [rank.pidfd])

    def _look(self) -> None:
        self._woken.recv(MAX_MESSAGE)
        for rank in self._ranks.values():
            try:
                found = os.waitid(os.P_PIDFD, rank.pidfd, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
            except ChildProcessError:  # it has died, and is still to be reaped
                continue
            if found is not None:
                stopped = found.si_status if found.si_code == os.CLD_STOPPED else 0
                rank.report(Suspension(rank.rank, stopped, time.perf_counter_ns()))

    def _reap(self, rank: _Rank) -> None:
        _pid, status = os.waitpid(rank.pid, 0)
        del self._ranks[rank.pid]
        self._selector.unregister(rank.pidfd)
        with suppress(KeyError):
            self._selector.unregister(rank.channel)
        rank.report(Exited(rank.rank, os.waitstatus_to_exitcode(status)))
        rank.close()

    def _orphan(self, rank: _Rank) -> None:
        if rank.pid in self._ranks:
            self._selector.unregister(rank.channel)
            rank.kill()

    def _forget(self) -> None:
        """In a new rank: let go of what belongs to the zygote."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for mine in (self._orders, self._woken, self._waker):
            mine.close()
        for rank in self._ranks.values():
            rank.close()


def _live(config: RankConfig, zygote: int, rank_main: RankMain) -> NoReturn:
    """A rank's whole life. Exit code 0: it was told to stop; 1: an exception, whose traceback is on the board."""
    code = 1
    try:
        child.die_with_parent(zygote)
        child.set_name(f"rank {config.rank}")
        _redirect(config)
        status = Board(config.board_fd, Layout(**config.layout).world_size).ranks[config.rank]
        status.pid = os.getpid()
        try:
            rank_main(config)
            status.phase = Phase.STOPPED
            code = 0
        except BaseException:
            # peers fail moments later, of the closed connection: the time tells whose failure was first
            status.failed_ns = time.perf_counter_ns()
            status.last_words = traceback.format_exc()
            status.phase = Phase.FAILED
            raise
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _redirect(config: RankConfig) -> None:
    if config.log:
        log = os.open(config.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        print(f"=== {config.deployment} generation {config.generation} rank {config.rank} pid {os.getpid()}")
    # a crash in native code leaves its stack, and SIGUSR1 asks a rank that hangs for its
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)


def main(orders_fd: str, module: str) -> None:
    child.die_with_parent()
    child.set_name("rank zygote")
    # A terminal or a service manager signals everybody at once; whether ranks may go is the parent's to say. Ranks inherit it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    rank = importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what was imported is shared with every rank: the collector shall not touch its pages
    _Nest(socket.socket(fileno=int(orders_fd)), rank.main, getattr(rank, "prepare", lambda _: None)).serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
