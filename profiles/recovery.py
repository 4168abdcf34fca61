"""What is left of a damaged profile: every whole chunk of it, whatever happened to the rest. Nothing in a file makes it raise."""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap
from pathlib import Path

from msgspec import Struct

from profiles import container
from profiles.container import ChunkPlace, Damaged, Entry
from profiles.provenance import Provenance
from profiles.writer import ProfileWriter
from telemetry.codec import CodecError, decode_envelope, decode_keyframe


class RecoveryReport(Struct, frozen=True):
    """What was found in a file, and what of it is in the new one."""

    chunks: int  # whole ones
    expected: int | None  # chunks by the file's own index; `None` when that is lost too
    keyframes: int
    messages: int
    unreadable: int  # messages in whole chunks that are none of ours
    seconds: float  # from the first message to the last
    provenance: bool  # whether it survived


def whole_chunks(file: mmap) -> Iterator[tuple[ChunkPlace, bytes]]:
    """Every chunk that is whole, by its checksum, in the file's order, decompressed.

    Chunks are looked for by their form and not by following the records: one wrong length leads past everything behind it.
    """
    offset = len(container.MAGIC)
    while (found := file.find(container.ZSTD_CHUNK, offset + container.ZSTD_AT)) >= 0:
        offset = found - container.ZSTD_AT
        try:
            place, data = container.chunk_at(file, offset)
        except Damaged:
            offset += 1
        else:
            yield place, data
            offset = place.end


def recover(source: Path, target: Path) -> RecoveryReport:
    """Write what is whole in `source` to `target`, with an index. Nothing is written when nothing is whole.

    Raises OSError when the one cannot be read or the other written.
    """
    try:
        file = container.map_file(source)
    except Damaged:
        return RecoveryReport(0, None, 0, 0, 0, 0.0, False)
    with file:
        return _Rescue(file, target).run()


class _Rescue:
    def __init__(self, file: mmap, target: Path) -> None:
        self._file, self._target = file, target
        pairs = container.read_metadata(file, container.PROVENANCE)
        self._provenance = Provenance.of_pairs(pairs) if pairs else None
        self._writer: ProfileWriter | None = None
        self._first_ns = self._last_ns = 0
        self._messages = self._keyframes = self._unreadable = 0

    def run(self) -> RecoveryReport:
        chunks = 0
        topics: dict[int, str] = {}
        try:
            for _place, data in whole_chunks(self._file):
                chunks += 1
                self._take_all(data, topics)
            if self._writer is not None:
                self._writer.finish()
        except OSError:
            if self._writer is not None:
                self._writer.abandon()
            raise
        try:
            expected = len(container.read_index(self._file).chunks)
        except Damaged:
            expected = None
        seconds = (self._last_ns - self._first_ns) / 1e9
        survived = self._provenance is not None
        return RecoveryReport(chunks, expected, self._keyframes, self._messages, self._unreadable, seconds, survived)

    def _take_all(self, data: bytes, topics: dict[int, str]) -> None:
        try:
            for entry in container.entries(data, topics):
                try:
                    self._take(entry)
                except CodecError:
                    self._unreadable += 1
        except Damaged:  # whole by its checksum, and yet no chunk of ours
            self._unreadable += 1
        if self._writer is not None:
            self._writer.flush()

    def _take(self, entry: Entry) -> None:
        if entry.topic == container.KEYFRAMES:
            keyframe = decode_keyframe(entry.data)
            deployment = next((state.record.deployment for state in keyframe.deployments), "")
            self._begun(entry, deployment).keyframe(entry.arrived_ns, entry.data)
            self._keyframes += 1
        else:
            envelope = decode_envelope(entry.data)
            self._begun(entry, envelope.deployment).envelope(entry.arrived_ns, envelope, entry.data)
            self._messages += 1
        self._last_ns = max(self._last_ns, entry.arrived_ns)

    def _begun(self, entry: Entry, deployment: str) -> ProfileWriter:
        if self._writer is None:
            lost = Provenance(deployment, wall_ns=entry.log_ns, monotonic_ns=entry.arrived_ns)
            self._writer = ProfileWriter(self._target, self._provenance or lost)
            self._first_ns = self._last_ns = entry.arrived_ns
        return self._writer
