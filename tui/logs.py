"""What the ranks and the engine of a deployment write, followed as it grows."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_KEPT = 4_000  # lines
_FORGOTTEN = 1_000  # at once when there are more, so that what is kept seldom moves
_FIRST_BYTES = 256 << 10  # of a file that has been written before
_MOST_BYTES = 1 << 20  # at one look
_COLOURS = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")


class LogLine(NamedTuple):
    writer: str  # "rank-3", "engine"
    text: str


class Tail:
    """One file. It may appear late, grow, be cut or be replaced."""

    def __init__(self, path: Path) -> None:
        self.writer = path.stem
        self._path = path
        self._inode = -1
        self._offset = 0
        self._rest = b""  # of a line that is not whole yet

    def news(self) -> list[LogLine]:
        """The lines that are whole since the last call; of very many, the newest and the word how much is missing."""
        try:
            status = self._path.stat()
            if (status.st_ino, status.st_size) == (self._inode, self._offset):
                return []
            with self._path.open("rb") as file:
                return self._read(file.fileno(), status.st_ino, status.st_size)
        except OSError:
            return []

    def _read(self, file: int, inode: int, size: int) -> list[LogLine]:
        first = self._inode == -1
        if inode != self._inode or size < self._offset:
            self._inode, self._offset, self._rest = inode, 0, b""
        most = _FIRST_BYTES if first else _MOST_BYTES
        skipped = max(0, size - self._offset - most)
        if skipped:
            self._offset, self._rest = self._offset + skipped, b""
        data = os.pread(file, size - self._offset, self._offset)
        self._offset += len(data)
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        rows = (whole + newline).splitlines()
        if skipped:
            rows[:1] = [b"... %d KiB before this are in %s" % (-(-skipped // 1024), bytes(self._path))]
        return [LogLine(self.writer, _COLOURS.sub(b"", row).decode(errors="replace")) for row in rows]


class Logs:
    """Of one deployment, or of one rank of it. Lines of several files stand in the order in which they were seen."""

    def __init__(self, directory: Path, rank: int | None = None) -> None:
        """`directory`: the deployment's, in the run directory's logs."""
        self.directory, self.rank = directory, rank
        self._tails: dict[Path, Tail] = {}
        self._lines: list[LogLine] = []

    def lines(self) -> Sequence[LogLine]:
        """All that is kept, oldest first, with what has come since the last call."""
        for path in self._files():
            if path not in self._tails:
                self._tails[path] = Tail(path)
        for tail in self._tails.values():
            self._lines.extend(tail.news())
        if len(self._lines) > _KEPT:
            del self._lines[: len(self._lines) - (_KEPT - _FORGOTTEN)]
        return self._lines

    def _files(self) -> list[Path]:
        """What was written last comes last."""
        pattern = "*.log" if self.rank is None else f"rank-{self.rank}.log"
        dated = []
        for path in self.directory.glob(pattern):
            try:
                dated.append((path.stat().st_mtime_ns, path))
            except OSError:
                continue
        return [path for _when, path in sorted(dated)]
