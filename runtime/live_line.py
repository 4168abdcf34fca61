"""A line on stderr that lives: where a terminal shows it, it is written over; in a log it comes again now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

AGAIN_S = 5.0  # in a log


class LiveLine:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._words = ""
        self._said = clock()

    def show(self, words: str, fresh: bool = False) -> None:
        """`fresh`: what stands there stays, and these words are said wherever they go."""
        if words == self._words:
            return
        if sys.stderr.isatty():
            begin = "\n" if fresh and self._words else "\r\x1b[K"
            print(f"{begin}{words}", end="", file=sys.stderr, flush=True)
        elif fresh or self._clock() - self._said >= AGAIN_S:
            print(words, file=sys.stderr, flush=True)
            self._said = self._clock()
        self._words = words

    def keep(self) -> None:
        """What stands there stays; what is printed next goes below it."""
        self._end("\n")

    def wipe(self) -> None:
        """Nothing stands there; what is printed next takes its place."""
        self._end("\r\x1b[K")

    def _end(self, how: str) -> None:
        if self._words and sys.stderr.isatty():
            print(how, end="", file=sys.stderr, flush=True)
        self._words = ""
