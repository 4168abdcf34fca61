"""Turns a rank's clock readings into records: of each step, once a second of collectives and experts, less often of memory."""

from __future__ import annotations

import time
from collections import deque
from itertools import pairwise
from typing import NamedTuple

import torch

from runtime.engine.plan import MemberPlan
from runtime.parallel.communicator import Mark
from runtime.rank.config import RankConfig
from runtime.rank.executor import Executor
from runtime.rank.memory import MemoryProbe
from runtime.rank.timeline import Later, Moment
from runtime.rank.totals import Totals
from runtime.rank.work import WorkCounter
from telemetry.emitter import Emitter
from telemetry.records import AxisTime, Phase, Record, StepRecord

_clock = time.perf_counter_ns
GATHER_NS = 50_000_000  # steps that end within so long are told in one message: most of a message's cost is its own
TOTALS_EVERY_NS = 1_000_000_000
MEMORY_EVERY_NS = 1_500_000_000  # every other time: the operating system takes a millisecond to tell


class Recorder:
    """Sees each step of a rank from `began` to `ended`. This one looks at nothing and tells nobody."""

    def began(self, idle: bool) -> None:
        """A plan has come; `idle`: it had to be waited for."""

    def ended(self, step: int, slot: int, plan: MemberPlan, sequences: int, tokens: int) -> None:
        """The host is through with the step."""

    def settle(self) -> bool:
        """Take the steps that the device has finished. False: some are not."""
        return True

    def tell(self) -> None:
        """Send what was gathered."""

    def rest(self) -> None:
        """Nothing has come for a while: what was counted is told, too."""

    def finish(self) -> None:
        """Nothing will come any more."""


class _Step(NamedTuple):
    """A step that the host is through with, and the device perhaps not."""

    step: int
    slot: int
    arrived_ns: int
    idle: bool
    ended_ns: int
    plan: MemberPlan
    sequences: int
    tokens: int
    moments: Later
    marks: list[Mark]  # of the axes
    experts: list[torch.Tensor]  # rows of each, by layer


class _Measured(NamedTuple):
    """A step that the device is through with, and nothing made of it yet: records are made together, in warm caches."""

    step: _Step
    moments: list[Moment]
    marks: list[Mark]


class StepRecorder(Recorder):
    """Makes a record of each step once the device is through with it, and sends those of `GATHER_NS` together."""

    def __init__(self, config: RankConfig, executor: Executor, kv_blocks: int, memory: MemoryProbe, emitter: Emitter) -> None:
        self._config, self._executor, self._emitter = config, executor, emitter
        self._axes = [axis for axis in executor.mesh.axes if axis.size > 1]
        self._pp = executor.mesh.pp
        self._experts = executor.stage.experts
        self._kv_blocks = kv_blocks
        self._probe = memory
        self._totals = Totals(config, executor)
        self._work = WorkCounter(executor.stage, executor.mesh)
        self._steps: deque[_Step] = deque()
        self._measured: list[_Measured] = []
        self._arrived, self._idle = 0, False
        self._untold: list[Record] = []
        self._unflushed = False
        self._last_end = self._flushed = self._due = _clock()
        self._tell_memory()
        self.tell()

    def began(self, idle: bool) -> None:
        self._arrived, self._idle = _clock(), idle

    def ended(self, step: int, slot: int, plan: MemberPlan, sequences: int, tokens: int) -> None:
        """No more than cannot wait: the time that this takes is taken from the next step."""
        moments, ended = self._executor.timeline.take(), _clock()
        marks = [axis.mark() for axis in self._axes]
        experts = [layer.counts for layer in self._experts]
        self._steps.append(_Step(step, slot, self._arrived, self._idle, ended, plan, sequences, tokens, moments, marks, experts))
        if ended >= self._due:
            self._due = ended + GATHER_NS
            self._record()
            if self._last_end - self._flushed >= TOTALS_EVERY_NS:
                self._flush(self._last_end)
            self.tell()

    def settle(self) -> bool:
        while self._steps:
            step = self._steps[0]
            moments = step.moments()
            if moments is None:
                return False
            marks = [axis.reached(mark) for axis, mark in zip(self._axes, step.marks, strict=True)]
            self._measured.append(_Measured(self._steps.popleft(), moments, marks))
        return True

    def tell(self) -> None:
        self._record()
        if self._untold:
            self._emitter.emit(*self._untold)
            self._untold.clear()

    def rest(self) -> None:
        self._record()
        if self._unflushed:
            self._flush(_clock())
        self.tell()

    def finish(self) -> None:
        if not self.settle():
            torch.cuda.synchronize()
            self.settle()
        self.rest()

    def _record(self) -> None:
        """Make the records of what was measured."""
        self.settle()
        if not self._measured:
            return
        rank, generation, kv_total = self._config.rank, self._config.generation, self._kv_blocks - 1
        asked = self._totals.experts([measured.step.experts for measured in self._measured])
        for (step, moments, marks), experts in zip(self._measured, asked, strict=True):
            receive, axes = self._exchanged(marks)
            before, inside = self._last_end, receive
            for axis in axes.values():
                inside += axis.wait_ns + axis.transfer_ns
            start = max(before, step.arrived_ns) if step.idle else before
            end = self._last_end = max(step.ended_ns, moments[-1].at_ns) if moments else step.ended_ns
            self._totals.saw(start)
            busy, phases = 0, []
            for (phase, begin), (_, until) in pairwise(moments):
                busy += until - begin
                phases.append(Phase(phase, max(0, begin - start), until - begin))
            plan, wall, compute = step.plan, end - start, max(0, busy - inside)
            work = self._work.of(plan, step.tokens, experts)
            self._untold.append(
                StepRecord(  # by place, in the order of its fields: by name it takes six times as long
                    rank,
                    generation,
                    step.step,
                    step.slot,
                    start,
                    wall,
                    start - before,
                    max(0, wall - inside - compute),
                    receive,
                    compute,
                    axes,
                    step.tokens - plan.decodes,
                    plan.decodes,
                    step.sequences,
                    plan.kv_used,
                    kv_total,
                    self._memory,
                    phases,
                    work.flops,
                    work.weight_bytes,
                    work.kv_bytes,
                )
            )
        self._measured.clear()
        self._unflushed = True

    def _exchanged(self, marks: list[Mark]) -> tuple[int, dict[str, AxisTime]]:
        """Of one step: nanoseconds that receives waited, and the rest by axis."""
        receive, axes = 0, {}
        for axis, mark in zip(self._axes, marks, strict=True):
            if axis is self._pp:
                receive = axis.take_receive_wait(mark)
            if (taken := axis.take(mark)) is not None:
                axes[axis.axis] = taken
        return receive, axes

    def _flush(self, now: int) -> None:
        self._untold += self._totals.take(now)
        self._flushed, self._unflushed = now, False
        if now - self._told_memory >= MEMORY_EVERY_NS:
            self._tell_memory()

    def _tell_memory(self) -> None:
        record = self._probe.read([tensor for cache in self._executor.stage.caches for tensor in cache.tensors])
        self._told_memory, self._memory = record.time_ns, record.used or 0
        self._untold.append(record)
