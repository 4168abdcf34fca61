"""Writes one profile: provenance, then envelopes and keyframes as they come. Synchronous; knows no clock and no policy."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec
from mcap.writer import Writer

from profiles.container import ENCODING, KEYFRAMES, PROFILE, PROVENANCE
from profiles.provenance import Provenance
from telemetry.keyframe import Keyframe
from telemetry.records import Envelope

MAX_CHUNK = 1 << 20  # bytes before compression; more begins a new chunk
MAX_TOPICS = 8192  # senders beyond share one


class ProfileExists(OSError):
    """There is a file of that name, or one that a recording left unfinished."""


class ProfileWriter:
    """The file is called `<path>.part` until it is finished; nobody but its owner reads it."""

    def __init__(self, path: Path, provenance: Provenance) -> None:
        """Raises ProfileExists, and OSError when the file cannot be made."""
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self.unflushed = 0  # bytes of messages since the last flush
        if path.exists():
            raise ProfileExists(f"{path} exists: choose another name")
        try:
            descriptor = os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise ProfileExists(f"{self.part} is a recording that did not end: `shardscope recover` it, or remove it") from None
        self._file = os.fdopen(descriptor, "wb")
        self._offset_ns = provenance.wall_ns - provenance.monotonic_ns
        self._writer = Writer(self._file, chunk_size=MAX_CHUNK)
        try:
            self._writer.start(profile=PROFILE, library="shardscope")
            self._writer.add_metadata(PROVENANCE, provenance.pairs())
            self._schemas = {
                kind: self._writer.register_schema(kind.__name__, "jsonschema", msgspec.json.encode(msgspec.json.schema(kind)))
                for kind in (Keyframe, Envelope)
            }
            self._keyframes = self._writer.register_channel(KEYFRAMES, ENCODING, self._schemas[Keyframe])
        except OSError:
            self.abandon()
            raise
        self._channels: dict[tuple[str, str], int] = {}

    @property
    def size(self) -> int:
        """Bytes in the file, without those that were not flushed."""
        return self._file.tell()

    def envelope(self, arrived_ns: int, envelope: Envelope, raw: bytes) -> None:
        """A message as it arrived. Raises OSError when it cannot be written."""
        self._add(self._channel(envelope), arrived_ns, raw, envelope.seq & 0xFFFFFFFF)

    def keyframe(self, arrived_ns: int, encoded: bytes) -> None:
        """The state after all messages so far; it begins a chunk. Raises OSError when it cannot be written."""
        self.flush()
        self._add(self._keyframes, arrived_ns, encoded, 0)

    def attach(self, name: str, data: bytes) -> None:
        """Put a JSON document beside the messages. Raises OSError when it cannot be written."""
        now_ns = time.time_ns()
        self._writer.add_attachment(now_ns, now_ns, name, "application/json", data)

    def flush(self) -> None:
        """Close the chunk and hand it to the operating system, so that a crash of this process loses nothing before."""
        self._writer.flush()
        self.unflushed = 0

    def sync(self) -> None:
        """Put what was flushed on the disk, so that a crash of the machine loses nothing before. May take long."""
        os.fdatasync(self._file.fileno())

    def finish(self) -> None:
        """Write the index and give the file its name. Raises OSError when either cannot be."""
        self._writer.finish()
        self._file.flush()
        self.sync()
        self._file.close()
        self.part.rename(self.path)

    def abandon(self) -> None:
        """Let go of the file where it is: what was flushed can be recovered."""
        with suppress(OSError):
            self._file.close()

    def _add(self, channel: int, arrived_ns: int, data: bytes, sequence: int) -> None:
        self._writer.add_message(channel, max(0, arrived_ns + self._offset_ns), data, arrived_ns, sequence)
        self.unflushed += len(data)

    def _channel(self, envelope: Envelope) -> int:
        key = envelope.deployment, envelope.sender
        if key not in self._channels and len(self._channels) >= MAX_TOPICS:
            key = envelope.deployment, "others"
        if key not in self._channels:
            topic = f"/{key[0]}/{key[1].replace(':', '/')}"
            self._channels[key] = self._writer.register_channel(topic, ENCODING, self._schemas[Envelope])
        return self._channels[key]
