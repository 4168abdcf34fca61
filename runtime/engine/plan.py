"""A plan: everything that the ranks of a replica need for one step. Ranks decide nothing, so they cannot diverge.

Numbers travel as little-endian int32 arrays, which ranks use as they are: no work per sequence.
"""

from __future__ import annotations

import msgspec
import numpy as np
from msgspec import Struct

from runtime.protocol import TokenLogprobs
from runtime.sampling import SamplingParams

LAST_SAMPLED = -1  # in a plan's tokens: the one that this row sampled last


class NewRow(Struct, frozen=True, array_like=True):
    """A row begins to hold a sequence whose next token will be sampled with `params`.

    `seed`: settled. `history`: prompt and output so far, when the choice depends on them. `prompt_tokens`: how many of
    them are the prompt. `banned`: token ids that may not be chosen before `banned_until` tokens of context.
    """

    row: int
    seed: int
    params: SamplingParams
    prompt_tokens: int
    history: list[int]
    banned: list[int]
    banned_until: int


class MemberPlan(Struct, frozen=True, array_like=True):
    """One ep member's part of a step. Sequences of one new token come first, longest context first.

    rows, starts, counts int32 [sequences]: the row of each, the positions that its cache holds, its new tokens;
    tokens int32 [sum(counts)]; blocks int32 [k, 3]: (row, index, block) added to block tables;
    wanted int32: indices of the sequences to sample.
    """

    rows: bytes = b""
    starts: bytes = b""
    counts: bytes = b""
    tokens: bytes = b""
    blocks: bytes = b""
    wanted: bytes = b""
    new: list[NewRow] = []
    decodes: int = 0  # tokens that follow output, not prompt
    kv_used: int = 0


class StepPlan(Struct, frozen=True, array_like=True, tag="step"):
    step: int
    slot: int
    members: list[MemberPlan]


class Halt(Struct, frozen=True, array_like=True, tag="halt"):
    """The rank ends."""


class StepResult(Struct, frozen=True, array_like=True):
    """What one ep member sampled: int32 tokens in the order of `wanted`. `logprobs` by index into them."""

    replica: int
    member: int
    step: int
    tokens: bytes
    logprobs: dict[int, TokenLogprobs] = {}


Plan = StepPlan | Halt

_plan_decoder: msgspec.msgpack.Decoder[Plan] = msgspec.msgpack.Decoder(Plan)
_result_decoder = msgspec.msgpack.Decoder(StepResult)
encode = msgspec.msgpack.Encoder().encode


def decode_plan(data: bytes) -> Plan:
    return _plan_decoder.decode(data)


def decode_result(data: bytes) -> StepResult:
    return _result_decoder.decode(data)


def pack(numbers: list[int] | np.ndarray) -> bytes:
    return np.asarray(numbers, dtype="<i4").tobytes()


def unpack(data: bytes) -> np.ndarray:
    """int32 bytes -> int64 array."""
    return np.frombuffer(data, dtype="<i4").astype(np.int64)
