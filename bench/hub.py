"""A telemetry hub in a process of its own, for measurements with telemetry on."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

from runtime.layout import Layout
from telemetry.endpoints import HubEndpoints
from telemetry.hub import Hub
from telemetry.records import DeploymentRecord, RankInfo

SNAPSHOT_S = 0.25  # as often as a dashboard asks


@contextmanager
def running_hub(deployment: str, layout: Layout) -> Iterator[str]:
    """The endpoint for ranks of a deployment that the hub knows, so that it folds what they send."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        ready = context.Event()
        process = context.Process(target=_serve, args=(directory, deployment, layout, ready), daemon=True)
        process.start()
        ready.wait(20)
        yield HubEndpoints.under(Path(directory)).records
        process.terminate()
        process.join()


def _serve(directory: str, name: str, layout: Layout, ready: Event) -> None:
    async def run() -> None:
        async with Hub(HubEndpoints.under(Path(directory))) as hub:
            ranks = [RankInfo(rank, *layout.coordinates(rank), 0, "cpu", 0, 0) for rank in range(layout.world_size)]
            now = time.perf_counter_ns()
            hub.inject([DeploymentRecord(name, 1, now, "READY", name, layout.asdict(), "cpu", "bfloat16", False, ranks)])
            ready.set()
            while True:
                await asyncio.sleep(SNAPSHOT_S)
                hub.snapshot()

    asyncio.run(run())
