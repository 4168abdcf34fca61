"""What other processes do on this machine while we measure."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil


class Others:
    """Cores that processes which are not ours kept busy, since it was made. Ours: this one and its descendants."""

    def __init__(self) -> None:
        self._start, self._all_then, self._ours_then = time.monotonic(), _all(), _ours()

    @property
    def cores(self) -> float:
        seconds = time.monotonic() - self._start
        theirs = _all() - self._all_then - (_ours() - self._ours_then)
        return max(0.0, theirs / seconds) if seconds > 0 else 0.0


def await_quiet(seconds: float, share: float = 0.1) -> float:
    """Wait until others keep less than that share of the machine busy, so long at most. Returns what they keep busy then."""
    end = time.monotonic() + seconds
    while True:
        others = Others()
        time.sleep(1.0)
        found = others.cores
        if found < share * (psutil.cpu_count() or 1) or time.monotonic() > end:
            return found


def _all() -> float:
    """Seconds that all cores were busy."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    return float(sum(times[:8]) - idle)  # what guests take is in user's already


def _ours() -> float:
    """With what children took that are no more."""
    me = psutil.Process()
    total = sum(me.cpu_times()[:4])
    for child in me.children(recursive=True):
        with suppress(psutil.Error):
            total += sum(child.cpu_times()[:4])
    return float(total)
