"""Single steps, listened to while somebody looks and no longer, and never more than fit."""

import asyncio
import time

import pytest
from handmade import MS, S, deployment, step

from telemetry import timeline
from telemetry.emitter import Emitter
from telemetry.endpoints import HubEndpoints
from telemetry.hub import Hub
from telemetry.timeline import StepClient, StepWindow

T = 1000 * S


def ends(window):
    return [(record.start_ns + record.wall_ns - T) // MS for record in window.steps()]


def test_three_seconds_oldest_first():
    window = StepWindow()
    for at in (0, 500, 2000, 1000, 3400, 3300):
        window.add(step(T + (at - 10) * MS, 10 * MS))
    assert ends(window) == [500, 1000, 2000, 3300, 3400]


def test_steps_of_before_a_relaunch_are_gone():
    window = StepWindow()
    for generation in (1, 1, 2, 1):
        window.add(step(T, 10 * MS, generation=generation))
    assert [record.generation for record in window.steps()] == [2]


def test_a_flood_is_bounded():
    window = StepWindow()
    for number in range(timeline.MAX_STEPS + 500):
        window.add(step(T, MS, number=number))
    assert len(window.steps()) == timeline.MAX_STEPS
    assert window.steps()[-1].step == timeline.MAX_STEPS + 499


async def until(condition, timeout_s=10.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def endpoints(tmp_path):
    return HubEndpoints.under(tmp_path)


async def test_steps_come_from_the_hub_only_for_whom_they_are_wanted(endpoints):
    client = StepClient(endpoints.deltas)
    async with Hub(endpoints) as hub:
        hub.inject([deployment(tp=2)])
        assert client.poll() == {}
        assert not client.listening
        client.want("demo")
        assert client.poll() == {"demo": ()}
        with Emitter(endpoints.records, "demo", "rank:0") as rank, Emitter(endpoints.records, "other", "rank:0") as other:

            def told():
                rank.emit(step(time.perf_counter_ns(), MS))
                other.emit(step(time.perf_counter_ns(), MS))
                client.want("demo")
                return client.poll()

            await until(lambda: told()["demo"])
        assert set(client.poll()) == {"demo"}
        client.close()


async def test_nobody_listens_when_nobody_asks(endpoints, monkeypatch):
    monkeypatch.setattr(timeline, "WANTED_S", 0.1)
    client = StepClient(endpoints.deltas)
    async with Hub(endpoints):
        client.want("demo")
        client.poll()
        assert client.listening
        await asyncio.sleep(0.15)
        assert client.poll() == {}
        assert not client.listening
        client.want("demo")
        client.poll()
        assert client.listening
        client.close()


async def test_what_did_not_come_is_counted(endpoints):
    client = StepClient(endpoints.deltas)
    async with Hub(endpoints) as hub:
        client.want("demo")
        client.poll()

        def heard():
            hub.inject([deployment()])
            client.poll()
            return client._next

        await until(heard)
        hub.seq += 7  # as if so many had been dropped for a reader that was slow
        before = client.missed
        await until(lambda: heard() and client.missed > before)
        assert client.missed - before == 7
        client.close()
