"""Turns a rank's clock readings into one `StepRecord` a step."""

from __future__ import annotations

import time

import psutil
import torch

from runtime.engine.plan import MemberPlan
from runtime.model.decoder import Stage
from runtime.parallel.mesh import Mesh
from runtime.rank.config import RankConfig
from telemetry.emitter import Emitter
from telemetry.records import StepRecord

_clock = time.perf_counter_ns
MEMORY_EVERY_NS = 500_000_000


class StepRecorder:
    """Emits a record for each step, from `began` (a plan is there) over `computing` to `ended`."""

    def __init__(self, config: RankConfig, mesh: Mesh, stage: Stage, kv_blocks: int, emitter: Emitter) -> None:
        self._config, self._mesh, self._stage, self._emitter = config, mesh, stage, emitter
        self._kv_blocks = kv_blocks
        self._process = psutil.Process()
        self._memory, self._memory_at = 0, 0
        self._last_end = _clock()
        self._start = self._idle = self._compute_start = 0

    def began(self, idle_ns: int) -> None:
        """A plan has come, after `idle_ns` without one."""
        now = _clock()
        self._idle = idle_ns
        self._start = now if idle_ns else self._last_end

    def computing(self) -> None:
        self._compute_start = _clock()

    def ended(self, step: int, slot: int, plan: MemberPlan, sequences: int, tokens: int, computed: int) -> None:
        """`computed`: the clock when the device's work was done."""
        mesh = self._mesh
        receive = mesh.pp.take_receive_wait()
        axes = {c.axis: taken for c in (mesh.tp, mesh.ep, mesh.pp) if (taken := c.take()) is not None}
        inside = receive + sum(axis.wait_ns + axis.transfer_ns for axis in axes.values())
        end = _clock()
        compute = max(0, computed - self._compute_start - inside)
        wall = end - self._start
        self._last_end = end
        self._emitter.emit(
            StepRecord(
                rank=self._config.rank,
                generation=self._config.generation,
                step=step,
                slot=slot,
                start_ns=self._start,
                wall_ns=wall,
                idle_ns=self._idle,
                gap_ns=max(0, wall - inside - compute),
                recv_wait_ns=receive,
                compute_ns=compute,
                axes=axes,
                prefill_tokens=tokens - plan.decodes,
                decode_tokens=plan.decodes,
                sequences=sequences,
                kv_blocks_used=plan.kv_used,
                kv_blocks_total=self._kv_blocks - 1,
                memory_bytes=self._memory_bytes(end),
                expert_tokens=self._experts(),
            )
        )

    def _memory_bytes(self, now: int) -> int:
        # reading /proc costs as much as ten records
        if now - self._memory_at > MEMORY_EVERY_NS:
            self._memory_at = now
            cuda = self._stage.device.type == "cuda"
            self._memory = torch.cuda.memory_reserved(self._stage.device) if cuda else self._process.memory_info().rss
        return self._memory

    def _experts(self) -> list[int] | None:
        experts = self._stage.experts
        if not experts:
            return None
        total = experts[0].tokens.clone()
        for layer in experts[1:]:
            total += layer.tokens
        for layer in experts:
            layer.tokens.zero_()
        counts: list[int] = total.tolist()
        return counts
