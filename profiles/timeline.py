"""The steps of the seconds before a moment of a recording, read from the file: what a timeline of stages is drawn from."""

from __future__ import annotations

from collections import deque

from profiles.container import KEYFRAMES, Entry
from profiles.reader import Profile
from telemetry.codec import CodecError, decode_envelope
from telemetry.records import StepRecord
from telemetry.series import SECOND

SPAN_NS = 3 * SECOND
_LATE_NS = SECOND // 2  # how long after its end a step may arrive


class Timeline:
    """A position in a profile, for one thread. Going on reads what came in between; going anywhere else, the span anew."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._steps: deque[tuple[str, StepRecord]] = deque()  # (deployment, step), as they arrived
        self._at_ns = -1
        self._chunk = self._next = 0
        self._entries: list[Entry] = []

    def at(self, time_ns: int, deployment: str) -> tuple[StepRecord, ...]:
        """The deployment's steps that ended in the `SPAN_NS` before a time and were known by then, oldest first."""
        if not self._at_ns <= time_ns <= self._at_ns + SPAN_NS:
            self._steps.clear()
            self._load(self._profile.chunk_before(time_ns - SPAN_NS - _LATE_NS))
        self._at_ns = time_ns
        self._play(time_ns)
        while self._steps and _end(self._steps[0][1]) <= time_ns - SPAN_NS:
            self._steps.popleft()
        shown = [step for name, step in self._steps if name == deployment and time_ns - SPAN_NS < _end(step) <= time_ns]
        return tuple(sorted(shown, key=lambda step: (_end(step), step.rank)))

    def _play(self, time_ns: int) -> None:
        while True:
            while self._next < len(self._entries):
                entry = self._entries[self._next]
                if entry.arrived_ns > time_ns:
                    return
                self._next += 1
                if entry.topic != KEYFRAMES:
                    self._take(entry)
            if self._chunk + 1 >= len(self._profile.chunks):
                return
            self._load(self._chunk + 1)

    def _take(self, entry: Entry) -> None:
        try:
            envelope = decode_envelope(entry.data)
        except CodecError:
            return
        self._steps.extend((envelope.deployment, record) for record in envelope.records if isinstance(record, StepRecord))

    def _load(self, chunk: int) -> None:
        self._chunk, self._next = chunk, 0
        self._entries = self._profile.entries_of(chunk)


def _end(step: StepRecord) -> int:
    return step.start_ns + step.wall_ns
