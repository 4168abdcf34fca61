"""The messages between the front (HTTP, `LLM`) and the engine. Plain typed data, msgpack on the wire, no text.

The front holds the tokenizer: it encodes prompts, decodes tokens and finds stop strings. The engine and the ranks
know token ids alone.
"""

from __future__ import annotations

from msgspec import Struct

from runtime.sampling import SamplingParams

FINISH_STOP = "stop"  # an end-of-sequence or stop token, or a stop string
FINISH_LENGTH = "length"  # max_tokens, or the context's end
FINISH_ABORT = "abort"  # the client left, or the operator stopped it
FINISH_ERROR = "error"


class Generate(Struct, frozen=True, tag="generate"):
    """Generate one sequence. `params.n` is 1 here: the front makes n requests of one with n > 1, seeds apart."""

    request: str
    prompt: list[int]
    params: SamplingParams


class Abort(Struct, frozen=True, tag="abort"):
    request: str


class TokenLogprobs(Struct, frozen=True, array_like=True):
    """Natural logarithms of probabilities, of the unmodified logits. `top`: the k best, best first."""

    logprob: float
    rank: int  # of the chosen token, 1 is the best
    top: list[tuple[int, float]]


class TokensOut(Struct, frozen=True):
    """New tokens of one request. After one with `finish` set the engine forgets the request.

    The token that ended the request is in `tokens`; `stop_token` names it if it is one of its `stop_token_ids`. `error`
    explains a finish of `FINISH_ERROR`.
    """

    request: str
    tokens: list[int]
    finish: str | None = None
    stop_token: int | None = None
    cached_tokens: int = 0
    logprobs: list[TokenLogprobs] | None = None
    error: str | None = None


class Outputs(Struct, frozen=True, tag="outputs"):
    """What one step brought."""

    items: list[TokensOut]


ToEngine = Generate | Abort
