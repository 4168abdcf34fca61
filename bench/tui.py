"""What the dashboard costs, in a terminal of its own (a pty) on a hub that is fed as a deployment of 64 ranks would feed it.

    python bench/tui.py [--layout tp8pp8] [--seconds 20] [--presses 40]

Prints, beside its goal: first paint (process start to the deployment's name on the screen), share of a core and bytes/s of each
size at 4 frames a second, and the time from a key to its effect on the screen while 10,000 records/s arrive at the hub.
CPU is the dashboard's alone, user and system, from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import multiprocessing
import os
import random
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

# before this folder, whose telemetry.py is not the package
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.control import DaemonInfo
from runtime.layout import Layout
from runtime.run_dir import RunDir
from telemetry.endpoints import HubEndpoints
from telemetry.hub import Hub
from telemetry.records import AxisTime, DeploymentRecord, DeviceRecord, EngineRecord, RankInfo, RankMemory, Record, StepRecord

NAME = "bench-deployment"
SIZES = ((80, 24), (120, 40), (200, 60))
CALM, STORM = 640, 10_000  # step records/s: ten steps a second of 64 ranks, and what the goal asks for
BEAT_S = 0.02
GIB = 1 << 30


def steps(layout: Layout, count: int, first: int, numbers: random.Random) -> list[Record]:
    """`count` step records of the ranks in turn, no two alike."""
    now = time.perf_counter_ns()
    found: list[Record] = []
    for i in range(first, first + count):
        rank, wall = i % layout.world_size, numbers.randrange(8_000_000, 12_000_000)
        wait = wall // 10
        axes = {"tp": AxisTime(96, 4 << 20, wait, wall // 10)}
        parts = (wall // 20, wall // 20, wall - wait - wall // 10 - 2 * (wall // 20))
        found.append(
            StepRecord(rank, 1, i // layout.world_size, 0, now - wall, wall, 0, *parts, axes, 32, 16, 16, 700, 1024, 100 * GIB)
        )
    return found


def once_a_second(layout: Layout, numbers: random.Random) -> list[Record]:
    now = time.perf_counter_ns()
    found: list[Record] = []
    for rank in range(layout.world_size):
        found.append(RankMemory(rank, 1, 40 * GIB, 60 * GIB, 8 * GIB, 141 * GIB, 30 * GIB, used=110 * GIB, time_ns=now))
        watts = 600 + 50 * numbers.random()
        found.append(DeviceRecord(rank, 1, now, 97.0, GIB, watts / 7, 110 * GIB, 141 * GIB, watts, 66.0, 1755, 3201, 700.0, []))
    return found


def engine(beat: int, numbers: random.Random) -> EngineRecord:
    """A queue that moves, counters that only grow."""
    queue = {
        "running": 40,
        "waiting": 2,
        "kv_used": numbers.randrange(600, 700),
        "kv_cached": 40,
        "kv_total": 1024,
        "in_flight": 8,
    }
    grown = {"prompt_tokens": 3000 * beat, "generated_tokens": 40 * beat, "finished": beat, "aborted": 0, "preemptions": 0}
    return EngineRecord(NAME, 1, 0, time.perf_counter_ns(), prefix_queries=0, prefix_hits=0, steps=beat, **queue, **grown)


def _serve(directory: str, layout: Layout, rate: Synchronized[float], ready: Event) -> None:
    """A run directory with a hub, and all that its ranks and its engine would say."""
    place = RunDir(Path(directory))
    place.acquire()
    endpoints = HubEndpoints.under(place.path)
    place.write_info(DaemonInfo(os.getpid(), "http://127.0.0.1:0", directory, 0, endpoints.snapshots))

    async def run() -> None:
        numbers = random.Random(1)
        async with Hub(endpoints) as hub:
            ranks = [
                RankInfo(rank, *layout.coordinates(rank), 1000 + rank, f"cuda:{rank}", 0, 0) for rank in range(layout.world_size)
            ]
            began = time.perf_counter_ns()
            hub.inject([DeploymentRecord(NAME, 1, began, "READY", NAME, layout.asdict(), "H200", "bfloat16", False, ranks)])
            ready.set()
            sent = beat = 0
            while True:
                await asyncio.sleep(max(0.0, began / 1e9 + BEAT_S * (beat + 1) - time.perf_counter()))
                beat += 1
                count = round(rate.value * BEAT_S)
                hub.inject(steps(layout, count, sent, numbers), NAME)
                sent += count
                if beat % 12 == 0:
                    hub.inject([engine(beat, numbers)])
                if beat % 50 == 0:
                    hub.inject(once_a_second(layout, numbers), NAME)

    asyncio.run(run())


@contextmanager
def fed_hub(layout: Layout) -> Iterator[tuple[Path, Synchronized[float]]]:
    """Its run directory, and how many step records arrive there a second, to be changed."""
    context = multiprocessing.get_context("spawn")
    ready, rate = context.Event(), context.Value("d", CALM)
    with tempfile.TemporaryDirectory() as directory:
        process = context.Process(target=_serve, args=(directory, layout, rate, ready), daemon=True)
        process.start()
        ready.wait(20)
        yield Path(directory), rate
        process.terminate()
        process.join()


class Terminal:
    """A dashboard in a pty of a given size. Reads all that it writes."""

    def __init__(self, run_dir: Path, columns: int, rows: int) -> None:
        self.began = time.perf_counter()
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        command = [sys.executable, "-m", "shardscope", "--run-dir", str(run_dir)]
        terminal = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env={**os.environ, **terminal}
        )
        os.close(theirs)
        self.bytes = 0

    def read(self, seconds: float) -> bytes:
        """What comes within that time, or nothing."""
        if not select.select([self._ours], [], [], max(0.0, seconds))[0]:
            return b""
        try:
            data = os.read(self._ours, 1 << 16)
        except OSError:  # it has ended
            return b""
        self.bytes += len(data)
        return data

    def wait_for(self, words: bytes, seconds: float = 20.0) -> float:
        """Until they are written; how long that took."""
        began, seen = time.perf_counter(), b""
        while words not in seen:
            if time.perf_counter() - began > seconds:
                raise SystemExit(f"{words!r} did not appear within {seconds:g} s; the last was {seen[-300:]!r}")
            seen = seen[-200:] + self.read(seconds)
        return time.perf_counter() - began

    def watch(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self.read(left)

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.press(b"q")
        while self._process.poll() is None:
            self.read(0.1)
        os.close(self._ours)


@contextmanager
def terminal(run_dir: Path, columns: int, rows: int) -> Iterator[Terminal]:
    opened = Terminal(run_dir, columns, rows)
    try:
        yield opened
    finally:
        opened.close()


def first_paint(run_dir: Path, tries: int = 5) -> list[tuple[float, float]]:
    """Seconds by the clock, and of CPU: what it would be on a machine that does nothing else."""
    found = []
    for _ in range(tries):
        with terminal(run_dir, 80, 24) as screen:
            screen.wait_for(NAME.encode())
            found.append((time.perf_counter() - screen.began, screen.cpu_s()))
            screen.watch(0.5)
    return found


def steady(run_dir: Path, columns: int, rows: int, seconds: float) -> tuple[float, float]:
    """Share of a core, bytes/s."""
    with terminal(run_dir, columns, rows) as screen:
        screen.wait_for(NAME.encode())
        screen.watch(3.0)
        cpu, sent, began = screen.cpu_s(), screen.bytes, time.perf_counter()
        screen.watch(seconds)
        took = time.perf_counter() - began
        return (screen.cpu_s() - cpu) / took, (screen.bytes - sent) / took


def key_to_screen(run_dir: Path, presses: int) -> list[float]:
    """Space freezes the screen, which the footer says: seconds until it does."""
    numbers, found = random.Random(2), []
    with terminal(run_dir, 80, 24) as screen:
        screen.wait_for(NAME.encode())
        screen.watch(2.0)
        for i in range(presses):
            screen.watch(0.1 + 0.4 * numbers.random())
            screen.press(b" ")
            found.append(screen.wait_for((b" pause", b" resume")[i % 2 == 0]))
    return found


def told(what: str, value: str, goal: str, met: bool) -> None:
    print(f"{what:<42} {value:>34}   goal {goal:<12} {'met' if met else 'MISSED'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", default="tp8pp8", type=Layout.parse)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--presses", type=int, default=40)
    args = parser.parse_args()
    with fed_hub(args.layout) as (run_dir, rate):
        time.sleep(2.0)
        paints = first_paint(run_dir)
        middle, cpu = (statistics.median(each) for each in zip(*paints, strict=True))
        value = f"{middle:.2f} s ({min(paints)[0]:.2f} to {max(paints)[0]:.2f}), CPU {cpu:.2f} s"
        told("first paint, median of 5", value, "< 0.7 s", middle < 0.7)
        for columns, rows in SIZES:
            share, rate_bytes = steady(run_dir, columns, rows, args.seconds)
            what = f"{args.layout.world_size} ranks at 4 Hz, {columns}x{rows}"
            told(f"{what}, CPU", f"{100 * share:.1f} % of a core", "< 5 %", share < 0.05)
            goal = 40 * 1024 if columns == 80 else float("inf")
            value = f"{rate_bytes / 1024:.1f} KiB/s"
            told(f"{what}, written", value, "< 40 KiB/s" if columns == 80 else "-", rate_bytes < goal)
        rate.value = STORM
        time.sleep(2.0)
        times = sorted(key_to_screen(run_dir, args.presses))
        value = (
            f"{1e3 * statistics.median(times):.0f} ms, p90 {1e3 * times[int(0.9 * len(times))]:.0f}, max {1e3 * times[-1]:.0f}"
        )
        told(f"key to screen, {STORM:,} records/s arrive", value, "< 100 ms", statistics.median(times) < 0.1)


if __name__ == "__main__":
    main()
