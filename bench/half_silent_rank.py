"""A rank that tells of its steps for a while, then of none for as long, and so on: what telemetry costs, seen from within.

For `bench/telemetry.py`, in place of `runtime.rank.process`. All ranks count the same steps, so all change together. When it ends
it writes to `$SHARDSCOPE_BENCH-RANK.json`, for each turn of `TURN` steps: whether it told, the nanoseconds from its first step's
end to its last one's, what it carried; and by step the nanoseconds that telling took, and whether a message was sent in them.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from runtime.engine.plan import MemberPlan
from runtime.rank import process
from runtime.rank.config import RankConfig
from runtime.rank.recorder import Recorder, StepRecorder
from runtime.rank.timeline import NoTimeline

prepare = process.prepare
main = process.main
TURN = 16  # steps
_clock = time.perf_counter_ns


class HalfSilent(StepRecorder):
    def __init__(self, config: RankConfig, executor: Any, *rest: Any) -> None:
        super().__init__(config, executor, *rest)
        self._timeline, self._tells, self._since = executor.timeline, True, _clock()
        self._count = self._began = self._spent = 0
        self._turns: list[tuple[bool, int, int]] = []
        self._spents: list[tuple[int, bool]] = []
        self._loads: set[int] = set()

    def began(self, idle: bool) -> None:
        start = _clock()
        if self._tells:
            super().began(idle)
        self._spent = _clock() - start

    def ended(self, step: int, slot: int, plan: MemberPlan, sequences: int, tokens: int) -> None:
        start, due = _clock(), self._due
        if self._tells:
            super().ended(step, slot, plan, sequences, tokens)
        else:
            Recorder.ended(self, step, slot, plan, sequences, tokens)
        end = _clock()
        if self._tells:
            self._spents.append((self._spent + end - start, self._due != due))
        self._loads.add(sequences if plan.decodes == tokens else 0)
        self._count += 1
        if self._count % TURN == 1:
            self._began = end
            self._loads.clear()
        elif self._count % TURN == 0:
            [load] = self._loads if len(self._loads) == 1 else [0]
            self._turns.append((self._tells, end - self._began, load))
            self._change()

    def _change(self) -> None:
        """What is told once a second is told once in a second of telling."""
        turn = self._count // TURN % 4
        tells, now = turn in (0, 3), _clock()  # on, off, off, on: a pace that drifts meets both alike
        if tells and not self._tells:
            away = now - self._since
            self._flushed += away
            self._told_memory += away
            self._last_end, self._due = now, self._due + away
        elif self._tells and not tells:
            self.tell()
            self._since = now
        self._tells = tells
        self._executor.timeline = self._timeline if tells else NoTimeline()
        for axis in self._axes:
            axis._counts = tells

    def finish(self) -> None:
        super().finish()
        place = Path(f"{os.environ['SHARDSCOPE_BENCH']}-{self._config.rank}.json")
        place.write_text(json.dumps({"turns": self._turns, "spent": self._spents}), encoding="utf-8")


process.StepRecorder = HalfSilent  # type: ignore[misc]
