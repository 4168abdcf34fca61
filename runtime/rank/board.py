"""The status board: a page of shared memory on which each rank writes what it is doing, readable even after its death.

It lives in an anonymous memory file (`memfd`), inherited by file descriptor: it has no name and cannot outlive the
processes that hold it. Each field has one writer, and is an aligned 8-byte word or the rank's last words, so no lock is needed.
"""

from __future__ import annotations

import mmap
import os
from enum import IntEnum
from typing import Any

WORDS = 32
TEXT = 8192
STRIDE = WORDS * 8 + TEXT


class Phase(IntEnum):
    """What a rank is at."""

    SPAWNED = 0
    CONNECTING = 1
    LOADING = 2
    WAITING_KV = 3  # it wrote `kv_blocks_possible` and waits for `kv_blocks`
    WARMING = 4
    READY = 5
    STOPPED = 6
    FAILED = 7


class Op(IntEnum):
    """A collective, for "its last collective"."""

    NONE = 0
    ALL_REDUCE = 1
    ALL_GATHER = 2
    REDUCE_SCATTER = 3
    ALL_TO_ALL = 4
    SEND = 5
    RECV = 6
    BROADCAST = 7
    BARRIER = 8


_FIELDS = (
    "phase",
    "progress",  # grows with every step, loaded tensor and other sign of life
    "plans",  # plans received
    "steps",  # steps finished; plans > steps: it has work
    "op",  # the collective that it entered last
    "op_axis",  # index into runtime.layout.AXES
    "op_seq",  # how many collectives it entered on that axis
    "op_done",  # 1: it left that collective
    "loaded",  # bytes
    "to_load",  # bytes
    "kv_blocks_possible",
    "kv_blocks",  # written by the launcher: the minimum over ranks
    "weights_bytes",
    "kv_bytes",
    "pid",
    "text_length",
    "fault",  # written by tests and `--fault`: which fault to commit
    "fault_arg",
    "failed_ns",  # perf_counter_ns of its failure, written with its last words
    "loaded_ns",  # perf_counter_ns of the end of its load, when it has its cache and begins to warm up
)


class RankStatus:
    """One rank's part of the board. Every name of `_FIELDS` is an integer attribute, read and written in place."""

    __slots__ = ("_text", "_words")
    _words: memoryview
    _text: memoryview

    def __init__(self, words: memoryview, text: memoryview) -> None:
        self._words, self._text = words, text

    def __getattr__(self, name: str) -> int:
        try:
            return self._words[_INDEX[name]]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _INDEX:
            self._words[_INDEX[name]] = value
        else:
            object.__setattr__(self, name, value)

    @property
    def words(self) -> memoryview:
        """int64 [WORDS], for hot paths; index with `field(name)`."""
        return self._words

    @property
    def last_words(self) -> str:
        """A traceback, if the rank left one."""
        return bytes(self._text[: self.text_length]).decode(errors="replace")

    @last_words.setter
    def last_words(self, text: str) -> None:
        data = text.encode()[-TEXT:]
        self._text[: len(data)] = data
        self._words[_INDEX["text_length"]] = len(data)


_INDEX = {name: i for i, name in enumerate(_FIELDS)}


def field(name: str) -> int:
    """The index of a field in `RankStatus.words`."""
    return _INDEX[name]


class Board:
    """The boards of all ranks of one generation of a deployment."""

    def __init__(self, fd: int, world_size: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, world_size * STRIDE)
        view = memoryview(self._map)
        ours = [view[r * STRIDE : (r + 1) * STRIDE] for r in range(world_size)]
        self.ranks = [RankStatus(one[: WORDS * 8].cast("q"), one[WORDS * 8 :]) for one in ours]

    @classmethod
    def create(cls, world_size: int) -> Board:
        fd = os.memfd_create("shardscope-board")
        os.ftruncate(fd, world_size * STRIDE)
        return cls(fd, world_size)
