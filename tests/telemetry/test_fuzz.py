"""Bytes from anybody on every socket of telemetry: nothing breaks, what is not ours is counted, memory stays bounded."""

import asyncio
import socket
import tracemalloc
from random import Random

import pytest
import zmq
from handmade import MS, S, collective, deployment, engine, envelope, request, step

from telemetry.client import TelemetryClient
from telemetry.codec import CodecError, decode_envelope, decode_keyframe, decode_snapshot, encode_envelope, encode_keyframe
from telemetry.codec import encode_snapshot as encoded
from telemetry.curve import HubKeys, ViewerKeys, make_keys
from telemetry.diagnosis import diagnose
from telemetry.emitter import Emitter
from telemetry.endpoints import REQUEST, HubEndpoints
from telemetry.fold import Fold
from telemetry.hub import Hub, Public
from telemetry.prometheus import render
from telemetry.records import AxisTime, DeviceRecord, EventRecord, ExpertRecord, StepRecord
from telemetry.timeline import StepClient

T = 10 * S  # in the past of any machine that has come up: a hub refuses what is of the future


def valid():
    """One message of each kind of record."""
    axes = {"tp": AxisTime(4, 4096, 20 * MS, 11 * MS)}
    records = [
        deployment(tp=2),
        engine(T),
        step(T, 300 * MS, axes=axes),
        collective(T + S, 0, [5, 7], [3, 9]),
        ExpertRecord(0, 1, T, T + S, [0, 1], [0, 1], [[1, 2], [3, 4]]),
        DeviceRecord(0, 1, T, cpu_percent=3.0, throttle=["SW power cap"]),
        request(T + S),
        EventRecord("demo", 1, T, "info", "state", "READY"),
    ]
    return [encode_envelope(envelope(record, seq=i)) for i, record in enumerate(records)]


def mangled(data, chance):
    """The bytes with some flipped, cut, doubled or strewn with others."""
    data = bytearray(data)
    match chance.randrange(10):
        case 0:
            del data[chance.randrange(len(data) + 1) :]
        case 1:
            at = chance.randrange(len(data) + 1)
            data[at:at] = chance.randbytes(chance.randrange(1, 40))
        case 2:
            data += data[: chance.randrange(len(data))]
        case 3:
            return chance.randbytes(chance.randrange(300))
        case _:
            for _ in range(chance.choice((1, 1, 1, 2, 5))):
                data[chance.randrange(len(data))] = chance.choice((0, 0x7F, 0x80, 0xC0, 0xDF, 0xFF, chance.randrange(256)))
    return bytes(data)


def nested(depth):
    """msgpack arrays in arrays."""
    return b"\x91" * depth + b"\x90"


HOSTILE = (
    b"",
    b"\xc1",
    nested(100_000),
    b"\x81" * 50_000,
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
)


def shown(snapshot):
    """All that a daemon makes of its fold."""
    encoded(1, snapshot)
    render(snapshot)
    judged(snapshot)


def judged(snapshot):
    assert all(diagnose(view, snapshot.window_s) for view in snapshot.deployments)


@pytest.mark.parametrize("seed", range(4))
def test_decoders_refuse_or_understand_and_do_nothing_else(seed):
    chance = Random(seed)
    fold = Fold()
    for message in valid():
        fold.add(decode_envelope(message), T + 2 * S)
    keyframe, snapshot = encode_keyframe(fold.keyframe(T + 2 * S)), encoded(1, fold.snapshot(T + 2 * S))
    kinds = ((decode_envelope, valid()), (decode_keyframe, [keyframe]), (decode_snapshot, [snapshot]))
    understood = 0
    for decode, messages in kinds:
        for i in range(600):
            data = HOSTILE[i] if i < len(HOSTILE) else mangled(chance.choice(messages), chance)
            try:
                found = decode(data)
            except CodecError:
                continue
            understood += 1
            if decode is decode_envelope:
                fold.add(found, T + 3 * S)
            elif decode is decode_snapshot:
                judged(found.snapshot)
            else:
                try:
                    restored = Fold.restored(found)
                except ValueError:  # a keyframe of no fold
                    continue
                shown(restored.snapshot(T + 3 * S))
    encode_keyframe(fold.keyframe(T + 3 * S))
    shown(fold.snapshot(T + 3 * S))
    assert 100 < understood < 1500


async def until(condition, timeout_s=20.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def taken(socket, frames):
    """Send once there is room: the hub that makes it lives on this loop."""
    while not socket.poll(0, zmq.POLLOUT):
        await asyncio.sleep(0.001)
    socket.send_multipart(frames)


@pytest.fixture
def context():
    with zmq.Context() as context:
        context.linger = 0
        yield context


async def test_the_hubs_sockets(tmp_path, context):
    chance = Random(5)
    endpoints = HubEndpoints.under(tmp_path)
    async with Hub(endpoints) as hub:
        push, dealer, subscriber = (context.socket(kind) for kind in (zmq.PUSH, zmq.DEALER, zmq.XSUB))
        push.connect(endpoints.records)
        dealer.connect(endpoints.snapshots)
        subscriber.connect(endpoints.deltas)
        for i in range(1500):
            data = HOSTILE[i] if i < len(HOSTILE) else mangled(chance.choice(valid()), chance)
            await taken(push, [data] * chance.choice((1, 1, 1, 2, 3)))
            await taken(dealer, [chance.choice((data, REQUEST))] * chance.choice((1, 1, 2)))
            await taken(subscriber, [chance.choice((b"\x01", b"\x00", b"")) + data[:50]])
        other = context.socket(zmq.PUSH)
        other.connect(endpoints.records)
        other.send(encode_envelope(envelope(deployment(name="after all"))))
        await until(lambda: any(d.name == "after all" for d in hub.snapshot().deployments))
        assert hub.snapshot().refused > 500
        with TelemetryClient(endpoints.snapshots) as client:
            await until(lambda: client.poll(0) is not None)


async def test_a_viewer_of_a_hostile_hub(tmp_path, context):
    """Whoever answers, the client and the timeline only ever refuse."""
    chance = Random(6)
    endpoints = HubEndpoints.under(tmp_path)
    router, publisher = context.socket(zmq.ROUTER), context.socket(zmq.PUB)
    router.bind(endpoints.snapshots)
    publisher.bind(endpoints.deltas)
    good = encoded(7, Fold().snapshot(T))
    with TelemetryClient(endpoints.snapshots) as client:
        steps = StepClient(endpoints.deltas)
        for i in range(400):
            client.poll(0)
            steps.want("demo")
            steps.poll()
            data = HOSTILE[i] if i < len(HOSTILE) else mangled(chance.choice((good, *valid())), chance)
            publisher.send_multipart([chance.randbytes(chance.randrange(12)), data][: chance.randrange(1, 3)])
            if router.poll(5):
                name, *_ = router.recv_multipart()
                router.send_multipart([name, *[data] * chance.choice((1, 2))])
        assert client.refused > 50
        await until(lambda: answered(client, router, good))
        assert steps.poll() == {"demo": ()} or steps.poll()["demo"]
        steps.close()


def answered(client, router, good):
    client.poll(0)
    if router.poll(0):
        router.send_multipart([router.recv_multipart()[0], good])
    return client.snapshot is not None and client.seq == 7


async def test_raw_bytes_on_the_public_ports(tmp_path):
    make_keys(tmp_path / "keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    public = Public(HubEndpoints.public(f"tcp://127.0.0.1:{port}"), HubKeys.read(tmp_path / "keys"))
    chance = Random(7)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
    async with Hub(HubEndpoints.under(tmp_path), public=public) as hub:
        for i in range(60):
            data = chance.choice((b"GET / HTTP/1.1\r\n\r\n", greeting, chance.randbytes(200), b"\xff" * 5000))
            with socket.create_connection(("127.0.0.1", port + i % 2)) as raw:
                raw.sendall(data + chance.randbytes(chance.randrange(100)))
            await asyncio.sleep(0)
        hub.inject([deployment()])
        with TelemetryClient(public.endpoints.snapshots, ViewerKeys.read(tmp_path / "keys")) as client:
            await until(lambda: client.poll(0) is not None)
        assert hub.snapshot().refused == 0


def test_memory_is_bounded_whatever_senders_claim():
    """Each message claims as much as it can: the second flood of the same size finds no more room than the first."""
    fold = Fold()
    wide = {f"axis{i}" * 20: AxisTime(1, 1, 1, 1) for i in range(500)}
    buckets = dict.fromkeys(range(-2000, 2000), 1)

    def flood(rounds):
        for i in rounds:
            name = f"{i}" * 8000
            rank = i % 60
            records = [
                deployment(name=f"d{i}", tp=2),
                EventRecord(name, 1, T + i, name, name, "x" * 20_000),
                request(T + i, reason=name),
                step(T + i, MS, rank=rank, idle=1 << 55, number=i, axes=wide),
                *(collective(T + i, rank, [1], [1], op=f"{i}-{j}", size=1 << j) for j in range(3)),
                ExpertRecord(rank, 1, T, T + i, list(range(100)), list(range(3 * i, 3 * i + 400)), [[1] * 400] * 100),
                DeviceRecord(rank, 1, T + i, throttle=[name] * 100),
            ]
            fold.add(envelope(*records, sender=name, seq=i, boot=i), T + S)
        one = collective(T, 0, [1], [1])
        fold.add(envelope(StepRecord(**{**fields(step(T, MS)), "axes": wide}), replaced(one, buckets)), T + S)

    fold.add(envelope(deployment(tp=8, pp=8, time_ns=T), sender="daemon"), T)  # the newest: it is not dropped
    tracemalloc.start()
    flood(range(400))
    full, _ = tracemalloc.get_traced_memory()
    flood(range(400, 800))
    grown = tracemalloc.get_traced_memory()[0] - full
    tracemalloc.stop()
    assert grown < 600_000  # of 400 messages that claim hundreds of kB each
    encoded(1, fold.snapshot(T + S))
    assert len(encode_keyframe(fold.keyframe(T + S))) < 16 << 20


def fields(record):
    return {name: getattr(record, name) for name in record.__struct_fields__}


def replaced(record, buckets):
    return type(record)(**{**fields(record), "waits": buckets, "durations": buckets})


async def test_readers_that_stopped_cost_the_ranks_nothing(tmp_path, context):
    """Two that never read and one that asks and never reads: every message of the rank arrives."""
    endpoints = HubEndpoints.under(tmp_path)
    async with Hub(endpoints) as hub:
        hub.inject([deployment()])
        for _ in range(2):
            stopped = context.socket(zmq.SUB)
            stopped.rcvhwm = 1
            stopped.subscribe(b"")
            stopped.connect(endpoints.deltas)
        asker = context.socket(zmq.DEALER)
        asker.rcvhwm = 1
        asker.connect(endpoints.snapshots)
        await asyncio.sleep(0.1)
        with Emitter(endpoints.records, "demo", "rank:0") as rank:
            for number in range(15_000):
                rank.emit(step(T + number * MS, MS, number=number))
                if number % 100 == 99:
                    asker.send(REQUEST)
                    sent = 1 + number + 1
                    await until(lambda sent=sent: hub.seq >= sent)
            assert rank.lost == 0
        snapshot = hub.snapshot()
        assert (snapshot.lost, snapshot.deployments[0].ranks[0].steps) == (0, 15_000)
