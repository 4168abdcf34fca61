"""The dashboard over a real daemon: a rank and its log, a deployment stopped by its name, a daemon that dies and returns."""

import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from driving import reached, redrawn
from terminal import shown

from runtime.background import DaemonProcess
from runtime.spec import DeploymentSpec
from telemetry.endpoints import HubEndpoints
from tui.app import Dashboard
from tui.screens.logs import LogsScreen
from tui.screens.rank import RankScreen
from tui.screens.stop import StopScreen
from tui.source import LiveSource


@pytest.fixture(scope="module")
def place():
    with tempfile.TemporaryDirectory(prefix="shardscope-test-") as directory:
        yield Path(directory)


@asynccontextmanager
async def watching(place):
    app = Dashboard(LiveSource(HubEndpoints.under(place)), run_dir=place)
    async with app.run_test(size=(120, 40)) as pilot:
        yield app, pilot


async def said(app, pilot, words):
    for _ in range(600):
        lines = await redrawn(app, pilot)
        if any(words in line for line in lines):
            return "\n".join(lines)
        await pilot.pause(0.05)
    raise AssertionError("\n".join(shown(app)))


async def test_a_rank_its_log_and_the_end_of_its_deployment(place, make_checkpoint):
    with DaemonProcess(place, "127.0.0.1:0") as daemon, daemon.client() as client:
        for _ in client.deploy(DeploymentSpec.model_validate({"model": make_checkpoint("llama"), "name": "t", "tp": 2})):
            pass
        async with watching(place) as (app, pilot):
            await said(app, pilot, "READY")
            await pilot.press("right", "enter")
            await reached(app, pilot, RankScreen)
            page = await said(app, pilot, "rank 1")
            [rank] = [rank for rank in client.snapshot().deployments[0].ranks if rank.info.rank == 1]
            assert f"pid {rank.info.pid}" in page
            assert "=== t generation 1 rank 1" in page
            await pilot.press("l")
            await reached(app, pilot, LogsScreen)
            assert "rank 0" not in await said(app, pilot, "=== t generation 1 rank 1")
            await pilot.press("K")
            await reached(app, pilot, StopScreen)
            await pilot.press("t", "enter")
            await said(app, pilot, "STOPPED")
            assert client.snapshot().deployments[0].state == "STOPPED"


async def test_a_daemon_may_die_and_come_back(place):
    async with watching(place) as (app, pilot):
        with DaemonProcess(place, "127.0.0.1:0"):
            await said(app, pilot, "nothing is deployed")
        assert "STALE" in await said(app, pilot, "the daemon does not answer")
        with DaemonProcess(place, "127.0.0.1:0"):
            assert "STALE" not in await said(app, pilot, "nothing is deployed")
