"""What a supervisor waits with: for news of its ranks and its engine, for orders, for time to pass."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Attention:
    """`stopping`, and `stop_now`, once set, stay."""

    def __init__(self) -> None:
        self.stopping = self.stop_now = False
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    def stop(self, now: bool) -> None:
        self.stopping = True
        self.stop_now |= now
        self.wake()

    async def wait(self, timeout: float | None = None) -> None:
        """Until something happened, or `timeout` seconds: what ranks write on their board announces itself to nobody."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._woken.wait()
        self._woken.clear()
