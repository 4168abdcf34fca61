"""A recording: which envelopes of a deployment go into which file, and when keyframes, flushes and new files are due.

Synchronous and without a thread; `profiles.recorder` runs it beside a daemon.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from profiles.provenance import Provenance
from profiles.writer import ProfileWriter
from telemetry.codec import encode_keyframe
from telemetry.fold import Fold
from telemetry.keyframe import Keyframe
from telemetry.records import Envelope
from telemetry.series import SECOND


@dataclass(frozen=True)
class Policy:
    """Seconds, bytes, messages. What a crash of the process costs at most is `flush_s`; of the machine, `sync_s`.

    A seek folds what came since the last keyframe: `keyframe_s` bounds it where little happens, `keyframe_messages` where much
    does, unless keyframes are so large that they would outweigh the rest: then `keyframe_weight` times their size comes between.
    """

    flush_s: float = 1.0
    flush_bytes: int = 256 << 10
    sync_s: float = 5.0
    keyframe_s: float = 10.0
    keyframe_messages: int = 550
    keyframe_weight: float = 0.8
    rotate_bytes: int = 768 << 20
    rotate_s: float = 3600.0


class Recording:
    """Of one deployment, into `path` and, when that is full, `<path>-2`, `-3`, ... Each file stands alone: it begins with the
    provenance and the whole state, and counters go on where they were. Times are CLOCK_MONOTONIC, in ns.

    Each method raises OSError when the disk does not take it; then `abandon` is all that is left to do.
    """

    def __init__(self, path: Path, provenance: Provenance, keyframe: Keyframe, policy: Policy | None = None) -> None:
        """`keyframe`: the hub's state from which the envelopes go on."""
        self.files: list[Path] = []  # finished ones
        self.messages = 0
        self.bytes = 0  # of finished files
        self._path, self._provenance = path, provenance
        self._policy = policy or Policy()
        self._deployment = provenance.deployment
        self._fold = Fold.restored(keyframe.only(self._deployment))
        self._last_ns = self._flushed_ns = self._synced_ns = keyframe.time_ns
        self._unsynced = False
        self._begin()

    @property
    def size(self) -> int:
        """Bytes of all files, without those that were not flushed."""
        return self.bytes + self._writer.size

    @property
    def writing(self) -> Path:
        """The file that is not finished yet."""
        return self._writer.part

    def add(self, arrived_ns: int, envelope: Envelope, raw: bytes) -> None:
        """Take one envelope, unless it is another deployment's."""
        if envelope.deployment != self._deployment:
            return
        if self._writer.size >= self._policy.rotate_bytes or arrived_ns - self._began_ns >= self._policy.rotate_s * SECOND:
            self.finish()
            self._begin()
        elif self._keyframe_is_due(arrived_ns):
            self._keyframe()
        self._last_ns = arrived_ns
        self._fold.add(envelope, arrived_ns)
        self._writer.envelope(arrived_ns, envelope, raw)
        self.messages += 1
        self._since_messages += 1
        self._since_bytes += len(raw)
        if self._writer.unflushed >= self._policy.flush_bytes:
            self._flush(arrived_ns)

    def tick(self, now_ns: int) -> None:
        """Flush what has waited long enough; call it a few times a second. May block for as long as a disk does."""
        if self._writer.unflushed and now_ns - self._flushed_ns >= self._policy.flush_s * SECOND:
            self._flush(now_ns)
        if self._unsynced and now_ns - self._synced_ns >= self._policy.sync_s * SECOND:
            self._writer.sync()
            self._synced_ns, self._unsynced = now_ns, False

    def attach(self, name: str, data: bytes) -> None:
        """Put a JSON document into the file that is being written."""
        self._writer.attach(name, data)

    def finish(self) -> None:
        """The last file whole, with its index and under its name."""
        self._writer.finish()
        self.files.append(self._writer.path)
        self.bytes += self._writer.path.stat().st_size

    def abandon(self) -> None:
        """Give up after an error: the unfinished file stays, for `shardscope recover`."""
        self._writer.abandon()

    def _begin(self) -> None:
        number = len(self.files) + 1
        path = self._path if number == 1 else self._path.with_name(f"{self._path.stem}-{number}{self._path.suffix}")
        self._writer = ProfileWriter(path, self._provenance)
        self._began_ns = self._last_ns
        try:
            self._keyframe()
            self._flush(self._last_ns)
        except OSError:
            self._writer.abandon()
            raise

    def _keyframe_is_due(self, now_ns: int) -> bool:
        if now_ns - self._keyed_ns >= self._policy.keyframe_s * SECOND:
            return True
        outweighed = self._since_bytes >= self._policy.keyframe_weight * self._keyframe_bytes
        return outweighed and self._since_messages >= self._policy.keyframe_messages

    def _keyframe(self) -> None:
        encoded = encode_keyframe(self._fold.keyframe(self._last_ns))
        self._writer.keyframe(self._last_ns, encoded)
        self._keyed_ns, self._keyframe_bytes = self._last_ns, len(encoded)
        self._since_messages = self._since_bytes = 0

    def _flush(self, now_ns: int) -> None:
        self._writer.flush()
        self._flushed_ns, self._unsynced = now_ns, True
