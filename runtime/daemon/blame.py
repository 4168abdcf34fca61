"""Who is to blame when a group of ranks ends or stands still: pure functions of what the ranks left on their board.

The first death is the cause; what peers die of afterwards, a closed connection, is not. A standstill is charged to the rank
that did not come to the collective in which the others wait.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from msgspec import Struct

from runtime.layout import AXES, Layout
from runtime.rank.board import Op, RankStatus

DIED = "rank-died"
STALLED = "stalled"
NO_ROOM = "no-room"
NURSERY = "nursery"
ENGINE = "engine-died"


class RankFailure(Struct, frozen=True):
    """Why a generation ended. `status`: the exit code, or minus the signal; `last_words`: a traceback, if there is one."""

    kind: str
    rank: int | None
    cause: str
    status: int | None = None
    last_words: str = ""
    collective: str = ""

    def __str__(self) -> str:
        """One line: the cause, the last line of a traceback, the last collective."""
        words = self.last_words.strip().splitlines()
        return "; ".join(filter(None, [self.cause, words[-1] if words else "", self.collective]))


def name(rank: int, layout: Layout) -> str:
    """`rank 3 (pp 1 tp 1)`: with the places on the axes that the layout has."""
    at = layout.coordinates(rank)
    places = " ".join(f"{axis} {getattr(at, axis)}" for axis in AXES if getattr(layout, axis) > 1)
    return f"rank {rank} ({places})" if places else f"rank {rank}"


def exit_words(status: int) -> str:
    """How a process ended, from its exit code or minus its signal."""
    if status < 0:
        killer = " (somebody killed it, or the kernel for want of memory)" if -status == signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-status).name}{killer}"
    return f"exited with code {status}"


def last_collective(status: RankStatus) -> str:
    """`last collective: tp all-reduce 41, not left`; empty if it never entered one."""
    if status.op == Op.NONE:
        return ""
    operation = Op(status.op).name.lower().replace("_", "-")
    return f"last collective: {AXES[status.op_axis]} {operation} {status.op_seq}{'' if status.op_done else ', not left'}"


def first_death(deaths: Sequence[tuple[int, int]], board: Sequence[RankStatus]) -> tuple[int, int]:
    """Of (rank, exit status) in the order of their reaping, the one that caused the others.

    A signal leaves no time to be overtaken. Exceptions may be reaped in another order than they were raised in.
    """
    first = deaths[0]
    if first[1] < 0:
        return first
    return min((death for death in deaths if death[1] >= 0), key=lambda death: board[death[0]].failed_ns or 2**63)


def death(rank: int, status: int, layout: Layout, board: Sequence[RankStatus]) -> RankFailure:
    left = board[rank]
    return RankFailure(DIED, rank, f"{name(rank, layout)} {exit_words(status)}", status, left.last_words, last_collective(left))


def _awaited(rank: int, layout: Layout, board: Sequence[RankStatus]) -> list[int]:
    """The ranks that have not come to the collective in which `rank` is; empty when it is in none, or all have come."""
    status = board[rank]
    if status.op_done or status.op == Op.NONE:
        return []
    axis = AXES[status.op_axis]
    group = layout.group(rank, axis)
    if status.op in (Op.SEND, Op.RECV):
        # a neighbour's sends and receives are counted together, so its number says nothing about ours
        neighbour = getattr(layout.coordinates(rank), axis) + (1 if status.op == Op.SEND else -1)
        return [group[neighbour]] if 0 <= neighbour < len(group) else []
    return [
        member
        for member in group
        if member != rank and (AXES[board[member].op_axis] != axis or board[member].op_seq < status.op_seq)
    ]


def culprit(stalled: int, layout: Layout, board: Sequence[RankStatus]) -> int:
    """From a rank that stands still, along "waits for", to the one that waits for nobody; `stalled` itself in a circle."""
    rank, seen = stalled, {stalled}
    while True:
        awaited = _awaited(rank, layout, board)
        if not awaited:
            return rank
        unseen = [other for other in awaited if other not in seen]
        if not unseen:
            return stalled
        rank = min(unseen, key=lambda other: (bool(_awaited(other, layout, board)), board[other].progress))
        seen.add(rank)


def stall(stalled: int, guilty: int, seconds: float, stopped: bool, layout: Layout, board: Sequence[RankStatus]) -> RankFailure:
    """`stopped`: the guilty one's process was stopped by a signal."""
    cause = f"{name(guilty, layout)} made no progress for {seconds:g} s"
    if stopped:
        cause += " (somebody stopped it with a signal)"
    if guilty != stalled:
        cause += f"; {name(stalled, layout)} waits for it ({last_collective(board[stalled])})"
    return RankFailure(STALLED, guilty, cause, None, "", last_collective(board[guilty]))
