"""Turns a rank's clock readings into records: of each step, and about once a second of collectives, experts and memory."""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

import torch

from runtime.engine.plan import MemberPlan
from runtime.rank.config import RankConfig
from runtime.rank.executor import Executor
from runtime.rank.memory import MemoryProbe
from runtime.rank.timeline import Later, Stretch
from runtime.rank.totals import Totals
from runtime.rank.work import ExpertWork, WorkCounter
from telemetry.emitter import Emitter
from telemetry.records import AxisTime, Phase, Record, StepRecord

_clock = time.perf_counter_ns
GATHER_NS = 25_000_000  # steps that end within so long are told in one message: most of a message's cost is its own
TOTALS_EVERY_NS = 1_000_000_000


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
    phases: Later
    calls: list[int]  # the last of each axis
    experts: ExpertWork  # until its end


class _Measured(NamedTuple):
    """A step that the device is through with, and nothing made of it yet: records are made together, in warm caches."""

    step: _Step
    start_ns: int
    end_ns: int
    idle_ns: int
    receive_ns: int
    inside_ns: int  # of receives and collectives
    axes: dict[str, AxisTime]
    phases: list[Stretch]


class StepRecorder:
    """Makes a record of each step, from `began` (a plan is there) to `ended`, when the device is through with it."""

    def __init__(self, config: RankConfig, executor: Executor, kv_blocks: int, memory: MemoryProbe, emitter: Emitter) -> None:
        self._config, self._executor, self._emitter = config, executor, emitter
        self._axes, self._pp = executor.mesh.axes, executor.mesh.pp
        self._kv_blocks = kv_blocks
        self._probe = memory
        self._totals = Totals(config, executor)
        self._work = WorkCounter(executor.stage, executor.mesh)
        self._steps: deque[_Step] = deque()
        self._measured: list[_Measured] = []
        self._arrived, self._idle = 0, False
        self._untold: list[Record] = []
        self._unflushed = False
        self._last_end = self._flushed = self._told = _clock()
        self._tell_memory()
        self.tell()

    def began(self, idle: bool) -> None:
        """A plan has come; `idle`: it had to be waited for."""
        self._arrived, self._idle = _clock(), idle

    def ended(self, step: int, slot: int, plan: MemberPlan, sequences: int, tokens: int) -> None:
        """The host is through with the step."""
        calls = [axis.calls for axis in self._axes]
        phases, experts, ended = self._executor.timeline.take(), self._work.experts(), _clock()
        self._steps.append(_Step(step, slot, self._arrived, self._idle, ended, plan, sequences, tokens, phases, calls, experts))
        self.settle()

    def settle(self) -> bool:
        """Take the steps that the device has finished. False: some are not."""
        while self._steps:
            phases = self._steps[0].phases()
            if phases is None:
                return False
            self._take(self._steps.popleft(), phases)
        return True

    def tell(self) -> None:
        """Send what was gathered."""
        self._record()
        if self._untold:
            self._emitter.emit(*self._untold)
            self._untold.clear()

    def rest(self) -> None:
        """Nothing has come for a while: what was counted is told, too."""
        if self._unflushed:
            self._flush(_clock())
        self.tell()

    def finish(self) -> None:
        """Nothing will come any more."""
        if not self.settle():
            torch.cuda.synchronize()
            self.settle()
        self.rest()

    def _take(self, step: _Step, phases: list[Stretch]) -> None:
        for axis, calls in zip(self._axes, step.calls, strict=True):
            axis.settle(calls)
        receive = inside = self._pp.take_receive_wait()
        axes: dict[str, AxisTime] = {}
        for axis in self._axes:
            taken = axis.take()
            if taken is not None:
                axes[axis.axis] = taken
                inside += taken.wait_ns + taken.transfer_ns
        before = self._last_end
        start = max(before, step.arrived_ns) if step.idle else before
        end = self._last_end = max(step.ended_ns, phases[-1].end_ns) if phases else step.ended_ns
        self._measured.append(_Measured(step, start, end, start - before, receive, inside, axes, phases))
        self._totals.saw(start)
        self._unflushed = True
        if end - self._flushed >= TOTALS_EVERY_NS:
            self._flush(end)
        if end - self._told >= GATHER_NS:
            self._told = end
            self.tell()

    def _record(self) -> None:
        """Make the records of what was measured."""
        rank, generation, kv_total = self._config.rank, self._config.generation, self._kv_blocks - 1
        for step, start, end, idle, receive, inside, axes, phases in self._measured:
            busy, told = 0, []
            for name, begin, until in phases:
                busy += until - begin
                told.append(Phase(name, max(0, begin - start), until - begin))
            plan, wall, compute = step.plan, end - start, max(0, busy - inside)
            work = self._work.of(plan, step.tokens, step.experts)
            self._untold.append(
                StepRecord(  # by place, in the order of its fields: by name it takes six times as long
                    rank,
                    generation,
                    step.step,
                    step.slot,
                    start,
                    wall,
                    idle,
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
                    told,
                    work.flops,
                    work.weight_bytes,
                    work.kv_bytes,
                )
            )
        self._measured.clear()

    def _flush(self, now: int) -> None:
        self._record()
        self._untold += self._totals.take(now)
        self._flushed, self._unflushed = now, False
        if now - self._told_memory >= TOTALS_EVERY_NS:
            self._tell_memory()

    def _tell_memory(self) -> None:
        record = self._probe.read([tensor for cache in self._executor.stage.caches for tensor in cache.tensors])
        self._told_memory, self._memory = record.time_ns, record.used or 0
        self._untold.append(record)
