"""msgpack on every wire, typed by the records themselves, with limits: bytes in, a value or `CodecError` out.

Nothing but msgspec's typed decoder ever reads a message, so bytes can become records and nothing else.
"""

from __future__ import annotations

import math
from typing import TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Struct

from telemetry.keyframe import Keyframe
from telemetry.records import SCHEMA_VERSION, Envelope, Record
from telemetry.snapshot import Snapshot

T = TypeVar("T")

MAX_MESSAGE = 1 << 20  # bytes of an envelope
MAX_KEYFRAME = 48 << 20  # bytes; one of 1,024 ranks takes about 4 MiB
MAX_SNAPSHOT = 64 << 20  # bytes of a snapshot; one of 1,024 ranks takes about 2 MiB


class CodecError(ValueError):
    """The bytes are not a message of ours, or a message cannot be put into bytes."""


class SnapshotReply(Struct, frozen=True, array_like=True):
    """The hub's answer to a request: the state after delta number `seq`."""

    version: int
    seq: int
    snapshot: Snapshot


def _float_fields(kind: type[Struct]) -> tuple[str, ...]:
    return tuple(name for name, hint in get_type_hints(kind).items() if hint is float or float in get_args(hint))


_FLOATS: dict[type[Struct], tuple[str, ...]] = {kind: _float_fields(kind) for kind in get_args(Record)}
_encoder = msgspec.msgpack.Encoder()
_envelopes = msgspec.msgpack.Decoder(Envelope)
_keyframes = msgspec.msgpack.Decoder(Keyframe)
_replies = msgspec.msgpack.Decoder(SnapshotReply)


def encode_envelope(envelope: Envelope) -> bytes:
    """One message for the telemetry socket. Raises CodecError if it is too large or holds what msgpack cannot."""
    return _encode(envelope, MAX_MESSAGE)


def decode_envelope(data: bytes) -> Envelope:
    """The envelope in a message from anywhere. Raises CodecError, and nothing else, for anything that is not one."""
    envelope = _decode(_envelopes, data, MAX_MESSAGE)
    _check_version(envelope.version)
    for record in envelope.records:
        for name in _FLOATS[type(record)]:
            value = getattr(record, name)
            if value is not None and not math.isfinite(value):
                raise CodecError(f"{type(record).__name__}.{name} is {value}")
    return envelope


def encode_keyframe(keyframe: Keyframe) -> bytes:
    """A fold's whole state. Raises CodecError if it is too large."""
    return _encode(keyframe, MAX_KEYFRAME)


def decode_keyframe(data: bytes) -> Keyframe:
    """The opposite of `encode_keyframe`. Raises CodecError, and nothing else."""
    keyframe = _decode(_keyframes, data, MAX_KEYFRAME)
    _check_version(keyframe.version)
    return keyframe


def encode_snapshot(seq: int, snapshot: Snapshot) -> bytes:
    """The hub's answer: its state after `seq` deltas."""
    return _encode(SnapshotReply(SCHEMA_VERSION, seq, snapshot), MAX_SNAPSHOT)


def decode_snapshot(data: bytes) -> SnapshotReply:
    """The opposite of `encode_snapshot`. Raises CodecError, and nothing else."""
    reply = _decode(_replies, data, MAX_SNAPSHOT)
    _check_version(reply.version)
    return reply


def _check_version(version: int) -> None:
    if version != SCHEMA_VERSION:
        raise CodecError(f"the message has schema version {version}, this program reads {SCHEMA_VERSION}")


def _encode(value: Struct, limit: int) -> bytes:
    try:
        data = _encoder.encode(value)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CodecError(f"cannot be encoded: {error}") from error
    if len(data) > limit:
        raise CodecError(f"a message of {len(data)} bytes, the limit is {limit}")
    return data


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes, limit: int) -> T:
    if len(data) > limit:
        raise CodecError(f"a message of {len(data)} bytes, the limit is {limit}")
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise CodecError(f"not a message of ours: {error}") from error
