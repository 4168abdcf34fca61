"""The emitter never waits, and its losses are counted to the message."""

import time

import zmq

from telemetry.codec import MAX_MESSAGE, decode_envelope
from telemetry.emitter import Emitter
from telemetry.records import EventRecord

EVENT = EventRecord("demo", 1, 0, "info", "state", "x" * 200)


def drain(pull):
    envelopes = []
    while pull.poll(300):
        envelopes.append(decode_envelope(pull.recv()))
    return envelopes


def test_a_reader_that_stopped_costs_nothing_and_every_loss_is_counted(tmp_path):
    endpoint = f"ipc://{tmp_path}/t"
    with (
        zmq.Context() as context,
        context.socket(zmq.PULL) as pull,
        Emitter(endpoint, "demo", "rank:0", high_water=50) as emitter,
    ):
        pull.rcvhwm = 50
        pull.bind(endpoint)
        began = time.perf_counter()
        for _ in range(5000):
            emitter.emit(EVENT)
        assert time.perf_counter() - began < 2
        assert emitter.lost > 0
        received = drain(pull)
        emitter.emit(EVENT)
        received += drain(pull)
        assert received[-1].lost == emitter.lost == 5001 - len(received)
        assert [e.seq for e in received] == list(range(len(received)))


def test_without_a_hub_messages_wait_and_then_count_as_lost(tmp_path):
    with Emitter(f"ipc://{tmp_path}/nobody", "demo", "rank:0", high_water=10) as emitter:
        for _ in range(25):
            emitter.emit(EVENT)
        assert emitter.lost == 15


def test_what_cannot_be_sent_is_a_loss_too(tmp_path):
    with Emitter(f"ipc://{tmp_path}/nobody", "demo", "rank:0") as emitter:
        emitter.emit(EventRecord("demo", 1, 0, "info", "state", "x" * MAX_MESSAGE))
        assert emitter.lost == 1


def test_no_endpoint_no_cost_no_loss():
    emitter = Emitter("", "demo", "rank:0")
    emitter.emit(EVENT)
    emitter.close()
    emitter.emit(EVENT)
    assert emitter.lost == 0


def test_what_was_said_last_is_heard(tmp_path):
    endpoint = f"ipc://{tmp_path}/t"
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.bind(endpoint)
        with Emitter(endpoint, "demo", "rank:0") as emitter:
            for _ in range(100):
                emitter.emit(EVENT)
        assert [e.seq for e in drain(pull)] == list(range(100))


def test_an_end_waits_for_no_hub_that_is_gone(tmp_path):
    emitter = Emitter(f"ipc://{tmp_path}/nobody", "demo", "rank:0")
    emitter.emit(EVENT)
    began = time.perf_counter()
    emitter.close()
    assert time.perf_counter() - began < 5
