"""Faults on a schedule beside the load: a rank stopped for a while, or killed. Of this machine's own deployments alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from runtime.client import ControlClient, DaemonError
from runtime.stress.result import FaultDone
from runtime.stress.values import number, pairs, positive, refuse, whole

SIGNALS = ("SIGSTOP", "SIGKILL")
EXAMPLE = '"t=10 SIGSTOP rank=2 for=3" or "t=10 SIGKILL rank=2"'


@dataclass(frozen=True)
class Fault:
    """At `at_s` seconds of the load, `signal` goes to `rank`. A stopped rank is continued after `for_s` seconds."""

    at_s: float
    signal: str
    rank: int
    for_s: float | None = None

    def __str__(self) -> str:
        return f"t={self.at_s:g} {self.signal} rank={self.rank}" + ("" if self.for_s is None else f" for={self.for_s:g}")


class NoRank(Exception):
    """There is no such rank to do it to; the message says why."""


Ranks = Callable[[int], psutil.Process]  # raises NoRank


def parse_fault(text: str) -> Fault:
    """Raises BadPlan."""
    words = text.split()
    signals = [word for word in words if "=" not in word]
    if len(signals) != 1 or signals[0] not in SIGNALS:
        raise refuse("--fault", f"'{text}'", f"it must name one signal, {' or '.join(SIGNALS)}", EXAMPLE)
    given = pairs("--fault", " ".join(word for word in words if "=" in word), None, EXAMPLE)
    wanted = {"t", "rank", "for"} if signals[0] == "SIGSTOP" else {"t", "rank"}
    if set(given) != wanted:
        named = ", ".join(f"{key}=" for key in ("t", "rank", "for") if key in wanted)
        raise refuse("--fault", f"'{text}'", f"{signals[0]} takes {named}", EXAMPLE)
    at_s = number("--fault t", given["t"], "10")
    if at_s < 0:
        raise refuse("--fault t", f"{at_s:g}", "it must be at least 0 s", 0)
    rank = whole("--fault rank", given["rank"], "0", least=0)
    for_s = positive("--fault for", number("--fault for", given["for"], "3"), 1) if "for" in given else None
    return Fault(at_s, signals[0], rank, for_s)


@dataclass(frozen=True)
class LocalRanks:
    """The processes of a deployment's ranks, asked of its daemon at every call: a generation's pids end with it."""

    run_dir: Path | None
    name: str

    def __call__(self, rank: int) -> psutil.Process:
        """Raises NoRank."""
        try:
            with ControlClient(self.run_dir) as client:
                info, snapshot = client.status()
            view = next((each for each in snapshot.deployments if each.name == self.name), None)
            if view is None:
                raise NoRank(f"the daemon has no deployment '{self.name}'")
            pid = next((each.info.pid for each in view.ranks if each.info.rank == rank), 0)
            if not pid:
                raise NoRank(f"'{self.name}' has no rank {rank}, its ranks go from 0 to {len(view.ranks) - 1}")
            process = psutil.Process(pid)
            # the status may be older than the process with this number: nobody but the daemon's own may be hit
            if info.pid not in (parent.pid for parent in process.parents()):
                raise NoRank(f"process {pid} is no child of the daemon {info.pid}")
            return process
        except DaemonError as error:
            raise NoRank(str(error)) from None
        except psutil.Error as error:
            raise NoRank(f"rank {rank} is gone: {error}") from None


async def play(faults: tuple[Fault, ...], ranks: Ranks, now: Callable[[], float], told: Callable[[FaultDone], None]) -> None:
    """Do all of them on time; `now` is the load's clock in seconds. Cancelled, it continues what it had stopped."""
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            group.create_task(_play_one(fault, ranks, now, told))


async def _play_one(fault: Fault, ranks: Ranks, now: Callable[[], float], told: Callable[[FaultDone], None]) -> None:
    await asyncio.sleep(max(0.0, fault.at_s - now()))
    try:
        process = await asyncio.to_thread(ranks, fault.rank)
        at_s = now()
        if fault.for_s is None:
            process.kill()
            told(FaultDone(str(fault), at_s, process.pid, "killed"))
            return
        process.suspend()
    except (NoRank, psutil.Error) as error:
        told(FaultDone(str(fault), now(), None, f"not done: {error}"))
        return
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        try:
            process.resume()
            outcome = f"stopped for {now() - at_s:.1f} s"
        except psutil.Error:
            outcome = "stopped, and it ended meanwhile"
        told(FaultDone(str(fault), at_s, process.pid, outcome))
