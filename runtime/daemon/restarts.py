"""How often a deployment may fail before it is left alone."""

from __future__ import annotations

from collections import deque

MAX_FAILURES = 3
WINDOW_S = 60.0


class Restarts:
    """Failures of one deployment. Times are seconds of any one clock.

    Three in a minute are enough, and so are three starts in a row that never became READY, however long each took. The first
    start has one try: what an operator has just asked for fails at once and says why.
    """

    def __init__(self) -> None:
        self._failures: deque[float] = deque()
        self._in_vain = 0
        self._was_ready = False

    def ready(self) -> None:
        self._in_vain = 0
        self._was_ready = True

    def failed(self, now: float, ready: bool) -> bool:
        """Count a failure of a generation that was `ready` or not; whether another generation may be tried."""
        self._failures.append(now)
        while now - self._failures[0] > WINDOW_S:
            self._failures.popleft()
        if not ready:
            self._in_vain += 1
        return self._was_ready and len(self._failures) < MAX_FAILURES and self._in_vain < MAX_FAILURES
