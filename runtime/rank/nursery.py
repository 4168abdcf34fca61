"""The launcher's side of the zygote (`runtime.rank.zygote`): asks for ranks, hears of their births and deaths.

Orders travel over one socket, with the file descriptors of the board, the shared memory and a *channel*. The channel is a
group's own: births and deaths of its ranks are reported on it, and when the group's end is closed its ranks are killed.
"""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct

from runtime import child
from runtime.rank.config import RankConfig

MAX_MESSAGE = 1 << 16
RANK_MODULE = "runtime.rank.process"


class Fork(Struct, frozen=True, tag="fork"):
    """Make a rank. File descriptors that come along: the channel, the board, and the segment if `config` has one."""

    config: RankConfig


class Forked(Struct, frozen=True, tag="forked"):
    """A rank is born; a pidfd comes along."""

    rank: int
    pid: int


class Exited(Struct, frozen=True, tag="exited"):
    """A rank is dead and reaped. `status`: its exit code, or minus the signal that killed it."""

    rank: int
    status: int


class Suspension(Struct, frozen=True, tag="suspension"):
    """A signal stopped a rank, or let it go on. `signal`: its number; 0: it goes on. `time_ns`: of CLOCK_MONOTONIC."""

    rank: int
    signal: int
    time_ns: int


class NotForked(Struct, frozen=True, tag="notforked"):
    rank: int
    error: str


Report = Forked | Exited | Suspension | NotForked

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Report).decode


class NurseryClosed(Exception):
    """The zygote is gone: it could not start, or was killed."""


class Channel:
    """One group's ear: reports of its ranks, without blocking."""

    def __init__(self) -> None:
        self._mine, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._mine.setblocking(False)

    def fileno(self) -> int:
        return self._mine.fileno()

    def read(self) -> tuple[Report, list[int]] | None:
        """The next report and the file descriptors that came with it; None: nothing yet. Raises NurseryClosed at the end."""
        try:
            data, fds, _flags, _address = socket.recv_fds(self._mine, MAX_MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError as error:
            raise NurseryClosed(str(error)) from error
        if not data:
            raise NurseryClosed("the process that makes ranks is gone")
        return _decode(data), fds

    def close(self) -> None:
        self._mine.close()
        self.theirs.close()


class Zygote:
    """A process that has imported what a rank needs, and forks ranks in milliseconds. One serves any number of groups."""

    def __init__(self, module: str = RANK_MODULE, log: Path | None = None) -> None:
        """`module` has the `main(RankConfig)` of a rank. `log` takes the zygote's own words; None: our stderr. Raises OSError."""
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # BLAS would start its threads at import, and a fork keeps none of them
            arguments = ["runtime.rank.zygote", str(theirs.fileno()), module]
            one_thread = {"OPENBLAS_NUM_THREADS": "1"}
            if log is None:
                self._process = child.start(*arguments, pass_fds=[theirs.fileno()], environment=one_thread)
            else:
                with log.open("ab") as output:
                    self._process = child.start(*arguments, output=output, pass_fds=[theirs.fileno()], environment=one_thread)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, config: RankConfig, channel: Channel, fds: list[int]) -> None:
        """Order a rank; `fds`: the board's and, if `config.segment_fd` is one, the segment's. Raises NurseryClosed."""
        try:
            socket.send_fds(self._orders, [_encode(Fork(config))], [channel.theirs.fileno(), *fds])
        except OSError as error:
            raise NurseryClosed(f"the process that makes ranks (pid {self.pid}) is gone: {error}") from error

    def close(self) -> None:
        """End it and every rank it made. Its end of the socket tells it; a deaf one is killed after a second."""
        self._orders.close()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
