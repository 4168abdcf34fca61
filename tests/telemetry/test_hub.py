"""The hub end to end over ipc: ranks in, snapshots and deltas out, nobody waits for anybody."""

import asyncio
import os
import time

import pytest
import zmq
from handmade import MS, deployment, engine, envelope, step

from telemetry.client import TelemetryClient
from telemetry.codec import decode_envelope, encode_envelope
from telemetry.emitter import Emitter
from telemetry.endpoints import REQUEST, HubEndpoints
from telemetry.hub import Hub
from telemetry.records import DeviceRecord, EventRecord


@pytest.fixture
def endpoints(tmp_path):
    return HubEndpoints.under(tmp_path)


@pytest.fixture
def context():
    with zmq.Context() as context:
        context.linger = 0  # a socket collected with unsent messages would hold up the end
        yield context


async def until(condition, timeout_s=3.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def poll(client):
    return await asyncio.to_thread(client.poll, 2.0)


async def test_from_a_rank_to_a_screen(endpoints):
    async with Hub(endpoints) as hub:
        now = time.perf_counter_ns()
        hub.inject([deployment(tp=2)])
        hub.inject([DeviceRecord(1, 1, now, cpu_percent=12.5)], deployment="demo")
        with Emitter(endpoints.records, "demo", "rank:1") as rank, TelemetryClient(endpoints.snapshots) as client:
            rank.emit(step(now, 5 * MS, rank=1), engine(now))
            await until(lambda: hub.seq == 3)
            snapshot = await poll(client)
            view = snapshot.deployments[0].ranks[1]
            assert (view.steps, view.cpu_percent, view.lost) == (1, 12.5, 0)
            assert snapshot.deployments[0].engine.running == 1
            assert client.reachable
            assert client.seq == 3
            assert client.age_s < 1


async def test_a_snapshot_then_deltas_by_number(endpoints, context):
    async with Hub(endpoints) as hub:
        subscriber = context.socket(zmq.SUB)
        subscriber.subscribe(b"")
        subscriber.connect(endpoints.deltas)
        await asyncio.sleep(0.2)
        for i in range(20):
            hub.inject([deployment(time_ns=i)])
        got = [await asyncio.to_thread(subscriber.recv_multipart) for _ in range(20)]
        assert [int.from_bytes(number, "big") for number, _ in got] == list(range(1, 21))
        assert decode_envelope(got[-1][1]).records == [deployment(time_ns=19)]


async def test_readers_are_counted_as_they_come_and_go(endpoints, context):
    """While deltas are sent, too: sending takes in a subscription, and its notice with it."""
    async with Hub(endpoints) as hub:
        hub.inject([deployment()])
        assert hub.snapshot().readers == 0
        readers = []
        for count in range(1, 4):
            subscriber = context.socket(zmq.SUB)
            subscriber.subscribe(b"")
            subscriber.connect(endpoints.deltas)
            readers.append(subscriber)
            while hub.readers < count:
                hub.inject([deployment(time_ns=count)])
                await asyncio.sleep(0.001)
        other = context.socket(zmq.SUB)
        other.subscribe(b"no such topic")
        other.connect(endpoints.deltas)
        hub.inject([deployment(time_ns=9)])
        for subscriber in readers:
            while decode_envelope((await asyncio.to_thread(subscriber.recv_multipart))[1]).records[0].time_ns != 9:
                pass
        assert hub.snapshot().readers == 3
        readers.pop().unsubscribe(b"")
        readers.pop().close()
        await until(lambda: hub.readers == 1)
        readers.pop().close()
        await until(lambda: hub.readers == 0)
        await asyncio.sleep(0.05)
        hub.inject([deployment(time_ns=10)])
        assert hub.snapshot().readers == 0


async def test_hostile_bytes_are_counted_and_change_nothing(endpoints, context):
    async with Hub(endpoints) as hub, asyncio.timeout(10):
        push, dealer = context.socket(zmq.PUSH), context.socket(zmq.DEALER)
        push.connect(endpoints.records)
        dealer.connect(endpoints.snapshots)
        for size in (0, 1, 100, 10_000):
            push.send(os.urandom(size))
            dealer.send(os.urandom(size))
        push.send_multipart([b"two", b"frames"])
        push.send(bytes(2 << 20))  # above the limit: its connection ends
        dealer.send(b"")
        await until(lambda: hub.snapshot().refused == 4 + 4 + 1 + 1)
        other = context.socket(zmq.PUSH)
        other.connect(endpoints.records)
        other.send(encode_envelope(envelope(deployment())))
        await until(lambda: hub.seq == 1)
        assert len(hub.snapshot().deployments) == 1


async def test_readers_that_stopped_cost_nothing(endpoints, context):
    async with Hub(endpoints) as hub:
        subscriber, asker = context.socket(zmq.SUB), context.socket(zmq.DEALER)
        subscriber.rcvhwm = 10
        subscriber.subscribe(b"")
        subscriber.connect(endpoints.deltas)
        asker.rcvhwm = 1
        asker.connect(endpoints.snapshots)
        await asyncio.sleep(0.1)
        hub.inject([deployment()])
        began = time.monotonic()
        for _ in range(200):
            asker.send(REQUEST)
            hub.inject([EventRecord("demo", 1, 0, "info", "state", "x" * 5000)] * 50)
        assert time.monotonic() - began < 5
        with TelemetryClient(endpoints.snapshots) as client:
            assert (await poll(client)).deployments[0].name == "demo"


async def test_a_burst_is_taken_whole_and_leaves_the_loop_its_turns(endpoints):
    async with Hub(endpoints) as hub:
        hub.inject([deployment()])
        with Emitter(endpoints.records, "demo", "rank:0", high_water=20_000) as rank:
            for i in range(5000):
                rank.emit(step(i * MS, MS))
            longest = 0.0
            while hub.seq < 5001:
                began = time.monotonic()
                await asyncio.sleep(0)
                longest = max(longest, time.monotonic() - began)
        assert hub.snapshot().deployments[0].ranks[0].steps == 5000
        assert longest < 0.2


async def test_in_process_subscribers_see_everything_and_cannot_break_it(endpoints):
    async with Hub(endpoints) as hub:
        seen = []

        def broken(delta):
            raise RuntimeError("full disk")

        hub.subscribe(broken)
        stop = hub.subscribe(seen.append)
        hub.inject([deployment()])
        hub.inject([EventRecord("demo", 1, 0, "info", "state", "x" * (2 << 20))])  # cannot be encoded: refused
        hub.inject([engine(1)])
        stop()
        stop()
        hub.inject([engine(2)])
        assert [delta.seq for delta in seen] == [1, 2]
        assert decode_envelope(seen[1].raw) == seen[1].envelope
        assert hub.snapshot().refused == 1


async def test_a_client_says_what_is_unreachable_and_finds_a_hub_that_returns(endpoints, monkeypatch):
    monkeypatch.setattr("telemetry.client.PATIENCE_S", 0.3)
    with TelemetryClient(endpoints.snapshots) as client:
        assert client.poll(0.05) is None
        assert not client.reachable
        assert client.age_s is None
        for _ in range(2):
            async with Hub(endpoints) as hub:
                hub.inject([deployment()])
                deadline = time.monotonic() + 5
                while not client.reachable:
                    assert time.monotonic() < deadline
                    await poll(client)
            await asyncio.sleep(0.4)
            last = client.poll(0.05)
            assert last is not None  # the last state stays, its age grows
            assert not client.reachable
            assert client.age_s > 0.3


async def test_polling_without_waiting_answers_with_the_next_call(endpoints):
    async with Hub(endpoints):
        with TelemetryClient(endpoints.snapshots) as client:
            assert client.poll(0) is None
            await until(lambda: client.poll(0) is not None)
