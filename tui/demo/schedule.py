"""The script's micro-batches on their way through the stages: simulated ten seconds at a time, the same whenever it is done."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from runtime.layout import Coordinates, Layout
from tui.demo import story
from tui.demo.pace import CHUNK, PREFILL_VOLUME, PREFILL_WORK, paces

EPOCH_S = 10
MOST_RUNNING = 48
_PREFILL_EVERY = 8  # steps


class Script(NamedTuple):
    """A deployment of the demo: which stretch of the story it plays, over and over."""

    name: str
    layout: Layout
    first: float = 0.0
    span: float = story.CYCLE_S

    def moment(self, at: float) -> float:
        """The second of the story that is played `at` seconds after the demo's beginning."""
        return self.first + at % story.CYCLE_S % self.span


class Job(NamedTuple):
    """One micro-batch' pass through all stages of a replica. Times in seconds, one a stage; tokens are of one ep member."""

    step: int
    slot: int
    work: float
    volume: float
    prefill: int
    decode: int
    planned: float
    idle: tuple[float, ...]  # nothing was asked of the stage
    waits: tuple[float, ...]  # for the previous stage
    starts: tuple[float, ...]
    ends: tuple[float, ...]


class Second(NamedTuple):
    """What a replica's stages did in one second: sums over the jobs that ended in it."""

    jobs: int = 0
    prefills: int = 0
    work: float = 0.0
    volume: float = 0.0
    prefill: int = 0
    decode: int = 0
    idle: tuple[float, ...] = ()
    waits: tuple[float, ...] = ()


def micro_batches(script: Script, moment: float) -> int:
    """In flight in each replica."""
    load = story.load(moment)
    return 0 if not load else 1 if story.during("thin", moment) else script.layout.pp


@lru_cache(maxsize=32)
def jobs(script: Script, epoch: int, replica: int) -> tuple[Job, ...]:
    """Those that begin and end within the ten seconds after `epoch * EPOCH_S`."""
    layout = script.layout
    now, over = float(epoch * EPOCH_S), float((epoch + 1) * EPOCH_S)
    free = [now] * layout.pp
    ready = [now] * layout.pp  # by slot
    found: list[Job] = []
    while True:
        count = micro_batches(script, script.moment(now))
        if not count:  # look again at the next second
            now = math.floor(now) + 1.0
            if now >= over:
                return tuple(found)
            free = [max(now, one) for one in free]  # no demand is not idleness
            continue
        slot = min(range(count), key=lambda i: ready[i])
        planned = max(now, free[0], ready[slot])
        job = _pass(script, replica, found, epoch, slot, planned, free)
        if job.ends[-1] >= over:
            return tuple(found)
        found.append(job)
        free = list(job.ends)
        ready[slot] = job.ends[-1]
        now = max(now, job.starts[0])


def _pass(script: Script, replica: int, found: list[Job], epoch: int, slot: int, planned: float, free: list[float]) -> Job:
    layout = script.layout
    moment = script.moment(planned)
    pace = paces(int(moment), layout)
    number = len(found)
    prefill = 0 if story.during("thin", moment) or (number + 3 * replica) % _PREFILL_EVERY else CHUNK
    jitter = 1 + 0.03 * math.sin(2.4 * number + replica)
    work = (PREFILL_WORK if prefill else 1.0) * jitter
    volume = PREFILL_VOLUME if prefill else 1.0
    sequences = MOST_RUNNING * story.load(moment) / layout.dp / layout.ep / micro_batches(script, moment)
    idle, waits, starts, ends = [], [], [], []
    arrives = planned
    for stage in range(layout.pp):
        mine = pace[layout.rank(Coordinates(replica, stage, 0, 0))]
        host = 1e-3 * mine.host
        told = max(free[stage], planned)
        start = max(told + host, arrives)
        idle.append(told - free[stage])
        waits.append(max(0.0, start - told - host))
        starts.append(start)
        arrives = start + 1e-3 * mine.step(work, volume)
        ends.append(arrives)
    decode = max(1, round(sequences))
    step = 10_000 * epoch + number
    return Job(step, slot, work, volume, prefill, decode, planned, tuple(idle), tuple(waits), tuple(starts), tuple(ends))


@lru_cache(maxsize=512)
def second_of(script: Script, second: int, replica: int) -> Second:
    """Sums over that second after the demo's beginning."""
    ended = [job for job in jobs(script, second // EPOCH_S, replica) if second <= job.ends[-1] < second + 1]
    return total([_alone(job) for job in ended])


def total(parts: list[Second]) -> Second:
    """Their sum."""
    some = [part for part in parts if part.jobs]
    if not some:
        return Second()
    return Second(
        jobs=sum(part.jobs for part in some),
        prefills=sum(part.prefills for part in some),
        work=sum(part.work for part in some),
        volume=sum(part.volume for part in some),
        prefill=sum(part.prefill for part in some),
        decode=sum(part.decode for part in some),
        idle=tuple(map(sum, zip(*(part.idle for part in some), strict=True))),
        waits=tuple(map(sum, zip(*(part.waits for part in some), strict=True))),
    )


def window(script: Script, at: float, replica: int, seconds: int = 10) -> Second:
    """Sums over the last complete seconds before `at`."""
    return total([second_of(script, second, replica) for second in range(max(0, int(at) - seconds), int(at))])


def _alone(job: Job) -> Second:
    return Second(1, int(job.prefill > 0), job.work, job.volume, job.prefill, job.decode, job.idle, job.waits)
