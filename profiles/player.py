"""Any moment of a profile as the snapshot that was shown then: the nearest keyframe before it, and what came since, folded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from profiles.container import KEYFRAMES, Entry
from profiles.reader import Profile
from telemetry.codec import CodecError, decode_envelope, decode_keyframe
from telemetry.fold import Fold
from telemetry.records import EventRecord
from telemetry.snapshot import Snapshot

MAX_TICKS = 2000


class Player:
    """A position in a profile. Going on costs what happened in between; going anywhere else costs a keyframe's worth.

    Each keyframe on the way is taken up, so a moment looks the same however it is reached, also behind damaged parts.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.unreadable = 0  # messages met that are none of ours
        self._fold = self._empty()
        self._chunk = 0  # the one that is read
        self._entries: list[Entry] = []
        self._next = 0  # of `_entries`
        self._at_ns = -1
        self._load(0)

    def at(self, time_ns: int) -> Snapshot:
        """The state at a time, which is put between the recording's beginning and end."""
        time_ns = min(max(time_ns, self.profile.start_ns), self.profile.end_ns)
        with _no_collection():
            chunk = next(self.profile.keyed_before(time_ns), 0)
            if time_ns < self._at_ns or chunk > self._chunk:
                self._seek(time_ns)
            self._play(time_ns)
            return self._fold.snapshot(time_ns)

    def _seek(self, time_ns: int) -> None:
        for chunk in self.profile.keyed_before(time_ns):
            self._load(chunk)
            if self._entries and self._entries[0].topic == KEYFRAMES and self._restore(self._entries[0]):
                self._next = 1
                return
        self._fold = self._empty()
        self._load(0)

    def _play(self, time_ns: int) -> None:
        last = len(self.profile.chunks) - 1
        while True:
            while self._next < len(self._entries):
                entry = self._entries[self._next]
                if entry.arrived_ns > time_ns:
                    self._at_ns = time_ns
                    return
                self._next += 1
                if entry.topic == KEYFRAMES:
                    self._restore(entry)
                else:
                    self._add(entry)
            if self._chunk >= last:
                self._at_ns = time_ns
                return
            self._load(self._chunk + 1)

    def _load(self, chunk: int) -> None:
        self._chunk, self._next = chunk, 0
        self._entries = self.profile.entries_of(chunk)

    def _add(self, entry: Entry) -> None:
        try:
            self._fold.add(decode_envelope(entry.data), entry.arrived_ns)
        except CodecError:
            self.unreadable += 1

    def _restore(self, entry: Entry) -> bool:
        try:
            self._fold = Fold.restored(decode_keyframe(entry.data))
        except ValueError:  # CodecError is one: a later version's keyframe, or nobody's
            self.unreadable += 1
            return False
        return True

    def _empty(self) -> Fold:
        window_s = self.profile.provenance.window_s if self.profile.provenance else 10.0
        return Fold(window_s if 0 < window_s <= 60 else 10.0)


@contextmanager
def _no_collection() -> Iterator[None]:
    """A keyframe is ten thousands of new objects, none of them garbage: to look for some in their midst doubles a seek's time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def events_of(profile: Profile) -> list[EventRecord]:
    """The recording's events, oldest first, from its keyframes, which hold the last ones each: no need to read the rest."""
    player = Player(profile)
    found: dict[tuple[int, str, str, int | None], EventRecord] = {}
    time_ns = profile.end_ns
    while len(found) < MAX_TICKS:
        events = player.at(time_ns).events
        fresh = {
            key: event
            for event in events
            if event.time_ns >= profile.start_ns and (key := (event.time_ns, event.kind, event.text, event.rank)) not in found
        }
        found.update(fresh)
        oldest = min((event.time_ns for event in events), default=0)
        if not fresh or oldest <= profile.start_ns or oldest >= time_ns:
            break
        time_ns = oldest
    return sorted(found.values(), key=lambda event: event.time_ns)
