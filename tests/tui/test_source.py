"""The live source against a real hub: it keeps the last values when the daemon goes and comes back with it."""

import asyncio
import time

from telemetry.endpoints import HubEndpoints
from telemetry.hub import Hub
from telemetry.records import DeploymentRecord
from tui.session import Session
from tui.source import LiveSource


def record(state):
    layout = {"dp": 1, "pp": 1, "ep": 1, "tp": 1}
    return DeploymentRecord("demo", 1, time.perf_counter_ns(), state, "model", layout, "cpu", "float32", False, [])


async def until(condition, within=8.0):
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_daemon_that_goes_and_comes_back(tmp_path):
    endpoints = HubEndpoints.under(tmp_path)
    source = LiveSource(endpoints)
    session = Session(source)
    source.start()
    try:
        assert source.latest() is None
        assert source.age() is None
        async with Hub(endpoints) as hub:
            hub.inject([record("STARTING")])
            await until(lambda: source.latest() is not None and source.latest().deployments)
            assert source.age() < 2
            assert session.look()[1].problem == ""
        last = source.latest()
        await until(lambda: source.problem)
        assert source.latest().deployments == last.deployments
        await until(lambda: session.look()[1].stale)
        async with Hub(endpoints) as hub:
            hub.inject([record("READY")])
            await until(lambda: source.latest().deployments and source.latest().deployments[0].state == "READY")
            await until(lambda: not source.problem and not session.look()[1].stale)
    finally:
        source.close()


async def test_collection_goes_on_while_paused(tmp_path):
    endpoints = HubEndpoints.under(tmp_path)
    source = LiveSource(endpoints)
    session = Session(source)
    source.start()
    try:
        async with Hub(endpoints) as hub:
            hub.inject([record("STARTING")])
            await until(lambda: source.latest() is not None and source.latest().deployments)
            session.pause_or_resume()
            hub.inject([record("READY")])
            await until(lambda: source.latest().deployments[0].state == "READY")
            snapshot, feed = session.look()
            assert snapshot.deployments[0].state == "STARTING"
            assert feed.paused_s is not None
            session.pause_or_resume()
            assert session.look()[0].deployments[0].state == "READY"
    finally:
        source.close()


def test_close_is_quick_without_a_daemon(tmp_path):
    source = LiveSource(HubEndpoints.under(tmp_path))
    source.start()
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 1.0
