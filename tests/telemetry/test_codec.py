"""Any bytes give an envelope or CodecError; limits and versions hold."""

import math
import resource

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.codec import MAX_MESSAGE, CodecError, decode_envelope, decode_snapshot, encode_envelope, encode_snapshot
from telemetry.records import SCHEMA_VERSION, AxisTime, DeviceRecord, Envelope, EventRecord, Phase, RequestRecord, StepRecord
from telemetry.snapshot import Snapshot

STEP = StepRecord(
    3, 1, 7, 0, 100, 50, 5, 1, 2, 30, {"tp": AxisTime(2, 1024, 7, 10)}, 4, 8, 8, 2, 64, 1 << 30, [Phase("forward", 5, 40)]
)


def envelope(*records, version=SCHEMA_VERSION):
    return Envelope(version, "demo", "rank:3", 1, 0, 0, list(records))


def test_what_goes_in_comes_out():
    sent = envelope(STEP, EventRecord("demo", 1, 5, "info", "state", "ready"), DeviceRecord(3, 1, 9, cpu_percent=99.5))
    assert decode_envelope(encode_envelope(sent)) == sent
    snapshot = Snapshot(time_ns=5, window_s=10.0, deployments=(), events=(), lost=0)
    assert decode_snapshot(encode_snapshot(4, snapshot)).snapshot == snapshot


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_float_that_is_not_finite_is_refused(value):
    with pytest.raises(CodecError, match="cpu_percent"):
        decode_envelope(encode_envelope(envelope(DeviceRecord(0, 1, 9, cpu_percent=value))))


def test_another_version_is_refused():
    with pytest.raises(CodecError, match="version"):
        decode_envelope(encode_envelope(envelope(STEP, version=SCHEMA_VERSION + 1)))


def test_a_field_from_the_future_is_tolerated():
    raw = msgspec.msgpack.decode(encode_envelope(envelope(STEP)))
    raw[-1][0]["colour"] = "blue"
    assert decode_envelope(msgspec.msgpack.encode(raw)) == envelope(STEP)


def test_too_large_is_refused_both_ways():
    with pytest.raises(CodecError, match="limit"):
        encode_envelope(envelope(EventRecord("demo", 1, 5, "info", "state", "x" * MAX_MESSAGE)))
    with pytest.raises(CodecError, match="limit"):
        decode_envelope(bytes(MAX_MESSAGE + 1))


def test_an_integer_beyond_64_bits_is_refused():
    with pytest.raises(CodecError):
        encode_envelope(envelope(DeviceRecord(0, 1, 1 << 70)))


def test_nesting_and_claimed_lengths_cost_neither_stack_nor_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    head = encode_envelope(envelope())[:-1]
    for tail in (
        b"\x91" * 500_000,
        b"\x81\xa1a" * 300_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
    ):
        for data in (tail, head + tail):
            with pytest.raises(CodecError):
                decode_envelope(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


@given(st.binary(max_size=300))
def test_random_bytes(data):
    for decode in (decode_envelope, decode_snapshot):
        with pytest.raises(CodecError):
            decode(data)


VALID = encode_envelope(
    envelope(STEP, DeviceRecord(0, 1, 9, cpu_percent=1.0), RequestRecord("demo", 1, "r", 0, 1, 2, 3, 4, 5, 0, 6, "stop"))
)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(VALID)))
def test_damaged_messages(changes, end):
    data = bytearray(VALID)
    for place, byte in changes:
        data[place] = byte
    try:
        decode_envelope(bytes(data[:end]))
    except CodecError:
        pass
