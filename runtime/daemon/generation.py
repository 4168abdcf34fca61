"""The processes of one generation: who looks after its engine and its ranks, and their end."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Callable

from runtime.daemon import blame
from runtime.daemon.attention import Attention
from runtime.daemon.blame import RankFailure
from runtime.daemon.engine_link import EngineLink
from runtime.daemon.launcher import RankGroup

GONE_S = 5.0  # for killed processes to be gone
STACKS_S = 0.2  # for ranks that hang to write their stacks
LEAVE_S = 1.0  # for ranks that were told to
_TICK_S = 0.5


class Generation:
    """Ranks that were launched, and the engine that drives them. They stand or fall together."""

    def __init__(self, group: RankGroup, engine: EngineLink, attention: Attention) -> None:
        self.group, self.engine = group, engine
        self._attention = attention
        asyncio.get_running_loop().add_reader(group.fileno(), attention.wake)

    @property
    def number(self) -> int:
        return self.group.generation

    async def until(self, come: Callable[[], bool], tick: float = _TICK_S, timeout: float = math.inf) -> RankFailure | None:
        """Look after them until it has come, asking every `tick` seconds, or time is up, or we are told to stop."""
        deadline = time.monotonic() + timeout
        while not self._attention.stopping:
            self.group.poll()
            if self.group.failure is not None:
                return self.group.failure
            if not self.engine.alive or self.engine.silent_s > self.group.spec.stall_timeout_s:
                return self.engine_failure()
            left = deadline - time.monotonic()
            if come() or left <= 0:
                return None
            await self._attention.wait(min(tick, left))
        return None

    def engine_failure(self) -> RankFailure:
        """It is dead, or stands still."""
        return RankFailure(blame.ENGINE, None, self.engine.epitaph())

    async def bury(self, stalled: bool) -> list[int]:
        """No rank survives its generation. A hang's stacks go to the ranks' logs first. The pids that could not be killed."""
        group = self.group
        if stalled:
            group.send_signal(signal.SIGUSR1)
            await asyncio.sleep(STACKS_S)
        if self._attention.stopping and self.engine.drained:
            await self._until_dead(LEAVE_S)
        group.end()
        await self._until_dead(GONE_S)
        asyncio.get_running_loop().remove_reader(group.fileno())
        return group.kill(timeout=0)

    async def _until_dead(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self.group.poll()
        while not self.group.dead and self.group.born and (rest := deadline - time.monotonic()) > 0:
            await self._attention.wait(rest)
            self.group.poll()
