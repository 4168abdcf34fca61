"""Opens a profile: who made it, how long it is, and its messages from anywhere on. Damaged parts are skipped and counted."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from profiles import container
from profiles.container import KEYFRAMES, ChunkPlace, Damaged, Entry
from profiles.provenance import Provenance
from profiles.recovery import whole_chunks


class ProfileError(Exception):
    """It cannot be opened as a profile; the message says why."""


class Profile:
    """An open file, for one thread. Times are the recorder's CLOCK_MONOTONIC in ns; a moment is seconds since `start_ns`."""

    def __init__(self, path: Path) -> None:
        """Raises ProfileError when it is no profile, or nothing whole is in it."""
        self.path = path
        self.damaged = 0  # chunks that were met and could not be read
        try:
            self._file = container.map_file(path)
        except OSError as error:
            raise ProfileError(f"{path}: {error.strerror}") from error
        except Damaged as error:
            raise ProfileError(f"{path}: {error}") from error
        try:
            self._open()
        except Damaged as error:
            self._file.close()
            raise ProfileError(f"{path}: {error}") from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def seconds(self) -> float:
        """From the first message to the last."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return len(self._file)

    def moment(self, time_ns: int) -> float:
        """Seconds from the beginning to a time."""
        return (time_ns - self.start_ns) / 1e9

    def attachments(self) -> dict[str, bytes]:
        """JSON documents that were put into it, by name; of an unfinished file none."""
        return container.read_attachments(self._file)

    def keyed_before(self, time_ns: int) -> Iterator[int]:
        """The numbers of the chunks with a keyframe that begin no later than `time_ns`, latest first."""
        place = bisect_right(self._keyed, time_ns, key=lambda number: self.chunks[number].first_ns - self._offset_ns)
        yield from reversed(self._keyed[:place])

    def chunk_before(self, time_ns: int) -> int:
        """The number of the last chunk that begins no later than `time_ns`, or the first."""
        return max(0, bisect_right(self.chunks, time_ns, key=lambda chunk: chunk.first_ns - self._offset_ns) - 1)

    def entries(self, chunk: int = 0) -> Iterator[Entry]:
        """All messages from the beginning of a chunk on, in the order in which they arrived."""
        for number in range(chunk, len(self.chunks)):
            yield from self.entries_of(number)

    def entries_of(self, chunk: int) -> list[Entry]:
        """The messages of one chunk; none when it is damaged."""
        try:
            _, data = container.chunk_at(self._file, self.chunks[chunk].start)
            return list(container.entries(data, self._topics))
        except Damaged:
            self.damaged += 1
            return []

    def _open(self) -> None:
        if container.read_profile(self._file) != container.PROFILE:
            raise Damaged("an MCAP file, but not of shardscope")
        pairs = container.read_metadata(self._file, container.PROVENANCE)
        self.provenance = Provenance.of_pairs(pairs) if pairs is not None else None
        try:
            self.chunks, self._topics = container.read_index(self._file)
            self.complete = True
        except Damaged:
            self.chunks, self._topics = self._scan()
            self.complete = False
        self._keyed = [number for number, chunk in enumerate(self.chunks) if chunk.keyed]
        first = next(self.entries(), None)
        last = next((found[-1] for number in reversed(range(len(self.chunks))) if (found := self.entries_of(number))), None)
        if first is None or last is None:
            raise Damaged("nothing in it is whole")
        self.damaged = 0
        self.start_ns, self.end_ns = first.arrived_ns, max(first.arrived_ns, last.arrived_ns)
        self._offset_ns = first.log_ns - first.arrived_ns

    def _scan(self) -> container.Index:
        """The index of a file that has none: its recorder still writes, or died."""
        chunks: list[ChunkPlace] = []
        topics: dict[int, str] = {}
        for place, data in whole_chunks(self._file):
            try:
                keyed = any(entry.topic == KEYFRAMES for entry in container.entries(data, topics))
            except Damaged:
                continue
            chunks.append(place._replace(keyed=keyed))
        return container.Index(chunks, topics)
