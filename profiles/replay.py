"""A profile as a source of snapshots for screens: it plays, pauses, steps, seeks. It reads the file, never a lossy bus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from profiles.player import Player, events_of
from profiles.reader import Profile
from profiles.timeline import Timeline
from telemetry.records import EventRecord, StepRecord
from telemetry.snapshot import Snapshot

SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
FRAME_S = 0.25  # a step: what a live screen shows between two drawings
_PERIOD_S = 0.1  # between two snapshots while it plays
_WANTED_S = 2.0  # after it was asked for last, a timeline is read no more
_NS = 1_000_000_000


class ReplayClock:
    """Where a replay is, in seconds from the beginning: a function of real time, which is asked for and never waited for."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.speed = 1.0
        self.playing = False
        self._now = now
        self._moment = 0.0
        self._since = now()

    @property
    def moment(self) -> float:
        """Between 0 and `seconds`."""
        passed = (self._now() - self._since) * self.speed if self.playing else 0.0
        return min(self.seconds, self._moment + passed)

    @property
    def ended(self) -> bool:
        return self.moment >= self.seconds

    def play(self) -> None:
        """Go on; from the beginning when it was at the end."""
        self.seek(0.0 if self.ended else self.moment)
        self.playing = True

    def pause(self) -> None:
        self.seek(self.moment)
        self.playing = False

    def seek(self, moment: float) -> None:
        """Be at a moment, or at the beginning or end when it is beyond them; play on if it played."""
        self._moment, self._since = min(max(0.0, moment), self.seconds), self._now()

    def step(self, frames: int = 1) -> None:
        """Pause, that many frames of `FRAME_S` later, or earlier."""
        self.pause()
        self.seek((round(self._moment / FRAME_S) + frames) * FRAME_S)

    def faster(self, steps: int = 1) -> None:
        """The next of `SPEEDS`, or the one before."""
        self.seek(self.moment)
        self.speed = SPEEDS[min(max(0, SPEEDS.index(self.speed) + steps), len(SPEEDS) - 1)]


class Tick(NamedTuple):
    """An event on the way: seconds from the beginning."""

    moment: float
    event: EventRecord


class ReplaySource:
    """The dashboard's source of snapshots. A thread of its own reads and folds; `latest` takes what it left. The controls may be
    used from any thread."""

    def __init__(self, profile: Profile, now: Callable[[], float] = time.monotonic) -> None:
        self.path = profile.path
        self.name = f"replay {profile.path.name}"
        self.ticks: tuple[Tick, ...] = ()  # in order; known a moment after `start`
        self.attached = profile.attachments()  # JSON documents by name: what a stress run found
        self.marks: tuple[float, ...] = ()  # moments that the user marked, in order
        self.problem = "" if profile.complete else "the recording has no end: what is whole is shown"
        self._profile = profile
        self._clock = ReplayClock(profile.seconds, now)
        self._lock = threading.Lock()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._latest: Snapshot | None = None
        self._steps: dict[str, tuple[StepRecord, ...]] = {}  # by deployment, at `_latest`
        self._wanted: dict[str, float] = {}  # deployments whose steps were asked for: when last
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)

    def start(self) -> None:
        """Show the beginning, and play."""
        self._latest = Player(self._profile).at(self._profile.start_ns)
        self._clock.play()
        self._thread.start()

    def latest(self) -> Snapshot | None:
        return self._latest

    def timeline(self, deployment: str) -> tuple[StepRecord, ...]:
        """The steps of all ranks in the seconds before the moment, oldest first; none until they are read, a moment after the
        first call."""
        fresh = deployment not in self._wanted
        self._wanted[deployment] = time.monotonic()
        if fresh:
            self._wake.set()
        return self._steps.get(deployment, ())

    def age(self) -> float | None:
        """A recording does not grow old while one looks at it."""
        return None if self._latest is None else 0.0

    def close(self) -> None:
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)
        self._profile.close()

    @property
    def seconds(self) -> float:
        """The whole recording's length."""
        return self._clock.seconds

    @property
    def moment(self) -> float:
        with self._lock:
            return self._clock.moment

    @property
    def speed(self) -> float:
        return self._clock.speed

    @property
    def playing(self) -> bool:
        with self._lock:
            return self._clock.playing and not self._clock.ended

    def play(self) -> None:
        self._control(self._clock.play)

    def pause(self) -> None:
        self._control(self._clock.pause)

    def toggle(self) -> None:
        self._control(self._clock.pause if self.playing else self._clock.play)

    def step(self, frames: int = 1) -> None:
        self._control(lambda: self._clock.step(frames))

    def seek(self, moment: float) -> None:
        self._control(lambda: self._clock.seek(moment))

    def skip(self, seconds: float) -> None:
        self._control(lambda: self._clock.seek(self._clock.moment + seconds))

    def faster(self, steps: int = 1) -> None:
        self._control(lambda: self._clock.faster(steps))

    def mark(self) -> bool:
        """Mark this moment, or take away the mark that is here; whether there is one now."""
        moment = self.moment
        near = [mark for mark in self.marks if abs(mark - moment) < FRAME_S]
        self.marks = tuple(mark for mark in self.marks if mark not in near) if near else tuple(sorted((*self.marks, moment)))
        return not near

    def jump(self, step: int) -> None:
        """To the next mark or event (`step` 1), or the one before (-1); there it stays where there is none."""
        moment = self.moment
        places = sorted({*self.marks, *(tick.moment for tick in self.ticks)})
        ahead = [place for place in places if (place > moment + FRAME_S if step > 0 else place < moment - FRAME_S)]
        if ahead:
            self.seek(ahead[0] if step > 0 else ahead[-1])

    def _control(self, change: Callable[[], None]) -> None:
        with self._lock:
            change()
        self._wake.set()

    def _run(self) -> None:
        try:
            self.ticks = tuple(Tick(self._profile.moment(event.time_ns), event) for event in events_of(self._profile))
            player, timeline = Player(self._profile), Timeline(self._profile)
            shown: tuple[float, frozenset[str]] | None = None
            while not self._closing.is_set():
                moment, wanted = self.moment, self._still_wanted()
                if (moment, wanted) != shown:
                    time_ns = self._profile.start_ns + round(moment * _NS)
                    self._latest = player.at(time_ns)
                    self._steps = {name: timeline.at(time_ns, name) for name in sorted(wanted)}
                    shown = moment, wanted
                self._wake.wait(_PERIOD_S)
                self._wake.clear()
        except Exception as error:  # whatever it is, the screen says it and the last values stay
            self.problem = f"{type(error).__name__}: {error}"

    def _still_wanted(self) -> frozenset[str]:
        """Reading steps costs more than folding them: nobody does it for a screen that has been left."""
        now = time.monotonic()
        self._wanted = {name: asked for name, asked in list(self._wanted.items()) if now - asked < _WANTED_S}
        return frozenset(self._wanted)


def parse_moment(text: str) -> float:
    """`SS`, `MM:SS` or `HH:MM:SS`, seconds with or without a fraction. Raises ValueError."""
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or any(not 0 <= number < float("inf") for number in numbers):
        raise ValueError(f"'{text}' is no moment: write MM:SS")
    moment = 0.0
    for number in numbers:
        moment = 60 * moment + number
    return moment
