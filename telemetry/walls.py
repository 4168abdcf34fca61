"""How long a rank's last steps took, for the median over a window."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from itertools import accumulate

from telemetry.formulas import percentile
from telemetry.records import Count, Time

MAX_STEPS = 256  # the latest, of which a median is

WallsState = bytes | list[tuple[Time, Count]]  # all ends, then all walls, as int64; earlier versions kept pairs


class Walls:
    """The ends and walls of the last `MAX_STEPS` steps, oldest first, in ns."""

    def __init__(self) -> None:
        self._ends, self._walls = array("q"), array("q")

    def add(self, end_ns: int, wall_ns: int) -> None:
        """A rank makes one step after another; one that says otherwise ended with the one before."""
        ends = self._ends
        ends.append(end_ns if not ends or end_ns > ends[-1] else ends[-1])
        self._walls.append(wall_ns)
        if len(ends) > 2 * MAX_STEPS:
            del ends[:MAX_STEPS], self._walls[:MAX_STEPS]

    def median_ns(self, since_ns: int) -> float | None:
        """Of the steps that ended after a time; `None` of none."""
        return percentile(self._walls[self._first_after(since_ns) :], 50)

    def state(self, since_ns: int) -> WallsState:
        """Those that ended after a time."""
        first = self._first_after(since_ns)
        return _little(self._ends[first:] + self._walls[first:]).tobytes()

    def restore(self, state: WallsState) -> None:
        """Become what `state` was taken of. Raises ValueError when it can be of no steps."""
        if isinstance(state, bytes):
            both = array("q")
            both.frombytes(state)
            _little(both)
            count, odd = divmod(len(both), 2)
            if odd or count > MAX_STEPS:
                raise ValueError(f"{len(both)} numbers are no ends and walls of at most {MAX_STEPS} steps")
            self._ends, self._walls = both[:count], both[count:]
        else:
            ends, walls = zip(*state[-MAX_STEPS:], strict=True) if state else ((), ())
            self._ends, self._walls = array("q", list(accumulate(ends, max))), array("q", walls)

    def _first_after(self, time_ns: int) -> int:
        return bisect_right(self._ends, time_ns, max(0, len(self._ends) - MAX_STEPS))


def _little(numbers: array[int]) -> array[int]:
    """In the byte order of files, or out of it."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
