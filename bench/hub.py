"""What the hub can take: messages a second and what they cost, ranks by the thousand, and how old is what a client sees.

    python bench/hub.py [--seconds 10] [--ranks 1024] [--hz 10]

The hub is a process of its own, and so is who sends to it; CPU is the hub's, of one core. Prints

  flood      as many step records as one sender can push, and how many of them the hub takes a second
  pace       10,000 messages a second from 64 ranks: the hub's CPU, what was lost
  ranks      each with HZ steps a second and six kinds of collectives once a second, a dashboard asking: CPU, lost, snapshot's age
  staleness  from a rank's `emit` to a client that holds it: by the deltas, and by snapshots asked for all the time
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

# before this folder, whose telemetry.py is not the package
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
import zmq

from runtime.layout import Layout
from telemetry.client import TelemetryClient
from telemetry.codec import encode_envelope
from telemetry.emitter import HIGH_WATER, Emitter
from telemetry.endpoints import HubEndpoints
from telemetry.formulas import percentile
from telemetry.hub import Hub
from telemetry.records import (
    SCHEMA_VERSION,
    AxisTime,
    CollectiveRecord,
    DeploymentRecord,
    EngineRecord,
    Envelope,
    Phase,
    RankInfo,
    Record,
    StepRecord,
)
from telemetry.timeline import StepClient

NAME = "bench"
SNAPSHOT_S = 0.25  # as often as a dashboard asks
CONTEXT = multiprocessing.get_context("spawn")


class Running(NamedTuple):
    """A hub in a process of its own."""

    endpoints: HubEndpoints
    process: psutil.Process

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def hub_process(deployment: str, layout: Layout, looking: bool = False) -> Iterator[Running]:
    """A hub that knows a deployment of this layout. `looking`: it makes a snapshot as often as a dashboard asks."""
    with tempfile.TemporaryDirectory() as directory:
        ready = CONTEXT.Event()
        process = CONTEXT.Process(target=_serve, args=(directory, deployment, layout, looking, ready), daemon=True)
        process.start()
        ready.wait(20)
        yield Running(HubEndpoints.under(Path(directory)), psutil.Process(process.pid))
        process.terminate()
        process.join()


@contextmanager
def running_hub(deployment: str, layout: Layout, looking: bool = True) -> Iterator[str]:
    """The endpoint for ranks of a deployment that the hub knows, so that it folds what they send."""
    with hub_process(deployment, layout, looking) as hub:
        yield hub.endpoints.records


def _serve(directory: str, name: str, layout: Layout, looking: bool, ready: Event) -> None:
    async def run() -> None:
        async with Hub(HubEndpoints.under(Path(directory))) as hub:
            ranks = [RankInfo(rank, *layout.coordinates(rank), 0, "cpu", 0, 0) for rank in range(layout.world_size)]
            now = time.perf_counter_ns()
            hub.inject([DeploymentRecord(name, 1, now, "READY", name, layout.asdict(), "cpu", "bfloat16", False, ranks)])
            ready.set()
            while True:
                await asyncio.sleep(SNAPSHOT_S)
                if looking:
                    hub.snapshot()

    asyncio.run(run())


def step(rank: int, number: int, period_ns: int) -> StepRecord:
    """As a tp rank with two axes of time sends it."""
    end, wall = time.perf_counter_ns(), int(period_ns * 0.9)
    phases = [Phase("forward", 1000, wall - 9000), Phase("sample", wall - 9000, 8000)]
    axes = {"tp": AxisTime(48, 1 << 20, 1000 * (number % 7), wall // 4)}
    return StepRecord(
        0 + rank, 1, number, 0, end - wall, wall, 0, 1000, 0, wall // 2, axes, 0, 8, 8, 10, 100, 1 << 30, phases=phases
    )


def collectives(rank: int, second: int) -> list[Record]:
    """A second of six kinds, some forty buckets each."""
    end = time.perf_counter_ns()
    buckets = {150 + i: 1 + (rank + i + second) % 5 for i in range(40)}
    return [
        CollectiveRecord(
            rank, 1, end - 10**9, end, "tp", "all_reduce", size, 8, 0, 120, 120 << size, 10**6, 10**7, buckets, buckets
        )
        for size in range(10, 16)
    ]


class Ranks:
    """Senders that share one ZeroMQ context, as a thousand processes would not: theirs is not the cost that is measured."""

    def __init__(self, endpoint: str, count: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.max_sockets = count + 1
        self._sockets = [self._context.socket(zmq.PUSH) for _ in range(count)]
        for socket in self._sockets:
            socket.sndhwm, socket.linger = HIGH_WATER, 1000
            socket.connect(endpoint)
        self._boot = time.perf_counter_ns()
        self._next = [0] * count
        self._lost = [0] * count

    def emit(self, rank: int, *records: Record) -> None:
        """What `telemetry.emitter.Emitter` does."""
        head = SCHEMA_VERSION, NAME, f"rank:{rank}", self._boot, self._next[rank], self._lost[rank]
        try:
            self._sockets[rank].send(encode_envelope(Envelope(*head, list(records))), zmq.NOBLOCK)
        except zmq.Again:
            self._lost[rank] += 1
        else:
            self._next[rank] += 1

    @property
    def sent(self) -> int:
        return sum(self._next)

    def close(self) -> None:
        self._context.destroy()


def send(endpoint: str, ranks: int, hz: float, seconds: float, full: bool, sent: Queue[int]) -> None:
    """`ranks` senders, each `hz` times a second (0: as fast as it goes), `full`: collectives too. Reports what sockets took."""
    senders = Ranks(endpoint, ranks)
    period_ns = int(1e9 / hz) if hz else 10**7
    began = time.perf_counter()
    number = 0
    while time.perf_counter() - began < seconds:
        for rank in range(ranks):
            senders.emit(rank, step(rank, number, period_ns))
            if full and number % round(hz) == rank % round(hz):
                senders.emit(rank, *collectives(rank, number))
            if hz and rank % 32 == 31:  # spread over the period: not all ranks step together
                time.sleep(max(0.0, began + (number + rank / ranks) / hz - time.perf_counter()))
        number += 1
    sent.put(senders.sent)
    senders.close()


class Loaded(NamedTuple):
    seconds: float  # until the last message was taken
    sent: int
    taken: int
    lost: int
    cpu: float  # of one core
    ages_s: list[float]  # of snapshots that a dashboard got


def loaded(layout: Layout, ranks: int, hz: float, seconds: float, with_collectives: bool) -> Loaded:
    """The hub under senders, a dashboard asking."""
    with hub_process(NAME, layout) as hub, TelemetryClient(hub.endpoints.snapshots) as client:
        queue = CONTEXT.Queue()
        sender = CONTEXT.Process(
            target=send, args=(hub.endpoints.records, ranks, hz, seconds, with_collectives, queue), daemon=True
        )
        sender.start()
        while client.poll(1.0) is None or client.seq < 2:
            pass
        began, cpu, first = time.perf_counter(), hub.cpu_s(), client.seq
        ages: list[float] = []
        until, last, spent_cpu_s = began, first, 0.0
        while sender.is_alive() or time.perf_counter() - until < 2.0:
            client.poll(0.05)
            if sender.is_alive():
                ages.append(client.age_s or 0.0)
            if client.seq > last:
                last, until, spent_cpu_s = client.seq, time.perf_counter(), hub.cpu_s() - cpu
            time.sleep(SNAPSHOT_S)
        assert client.snapshot is not None
        spent = until - began
        return Loaded(spent, queue.get(), last - first, client.snapshot.lost, spent_cpu_s / spent, ages)


def staleness(samples: int = 300) -> tuple[list[float], list[float]]:
    """Seconds from `emit` until a client holds it: (by deltas, by snapshots), while 64 ranks make 10 steps a second."""
    with hub_process(NAME, Layout(tp=8, dp=8)) as hub:
        queue = CONTEXT.Queue()
        sender = CONTEXT.Process(target=send, args=(hub.endpoints.records, 63, 10, samples / 20 + 2, True, queue), daemon=True)
        sender.start()
        steps = StepClient(hub.endpoints.deltas)
        with Emitter(hub.endpoints.records, NAME, "rank:63") as rank, TelemetryClient(hub.endpoints.snapshots) as client:
            rank.emit(EngineRecord(NAME, 1, 0, time.perf_counter_ns(), 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1))
            made = 0

            def seen_by_snapshot() -> bool:
                snapshot = client.poll(0.01)
                return snapshot is not None and snapshot.deployments[0].ranks[63].steps >= made

            def seen_by_delta() -> bool:
                steps.want(NAME)
                return any(record.rank == 63 and record.step == made for record in steps.poll().get(NAME, ()))

            def sampled(seen: Callable[[], bool]) -> list[float]:
                nonlocal made
                found = []
                for _ in range(samples):
                    made += 1
                    began = time.perf_counter()
                    rank.emit(step(63, made, 10**7))
                    while not seen():
                        time.sleep(0.0005)
                    found.append(time.perf_counter() - began)
                    time.sleep(0.02)
                return found

            while not seen_by_delta():  # until it is connected
                made += 1
                rank.emit(step(63, made, 10**7))
                time.sleep(0.05)
            by_delta = sampled(seen_by_delta)
            steps.close()
            made = 0 if client.poll(1.0) is None else client.snapshot.deployments[0].ranks[63].steps
            return by_delta, sampled(seen_by_snapshot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--hz", type=float, default=10.0)
    args = parser.parse_args()

    flood = loaded(Layout(tp=8), 8, 0, args.seconds / 2, False)
    print(f"flood      {flood.taken / flood.seconds:8,.0f} messages/s {told(flood)}")
    pace = loaded(Layout(tp=8, dp=8), 64, 10_000 / 64, args.seconds, False)
    print(f"pace       {pace.taken / pace.seconds:8,.0f} messages/s {told(pace)}")
    many = loaded(Layout(tp=8, dp=args.ranks // 8), args.ranks, args.hz, args.seconds, True)
    print(f"ranks      {many.taken / many.seconds:8,.0f} messages/s of {args.ranks:,} ranks at {args.hz:g} Hz {told(many)}")
    for name, times in zip(("deltas", "snapshots"), staleness(), strict=True):
        p50, p99 = (1e3 * (percentile(times, q) or 0) for q in (50, 99))
        print(f"staleness  by {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


def told(run: Loaded) -> str:
    p50, p99 = (1e3 * (percentile(run.ages_s, q) or 0) for q in (50, 99))
    each = 1e6 * run.cpu * run.seconds / max(1, run.taken)
    cost = f"at {100 * run.cpu:.0f} % of a core, {each:.0f} us each"
    return f"{cost}; {run.sent:,} sent, {run.lost:,} lost; snapshots' age p50 {p50:.0f} ms, p99 {p99:.0f} ms"


if __name__ == "__main__":
    main()
