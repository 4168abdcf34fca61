"""What a client asks of the sampler: one request's `SamplingParams`, and what is wrong with it."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import force_setattr

MAX_LOGPROBS = 20
MAX_STOP = 16


class SamplingParams(Struct, frozen=True, omit_defaults=True):
    """How one request's tokens are chosen. The semantics are TensorRT-LLM's (docs, features/sampling.md).

    Greedy iff `temperature == 0`, `top_k == 1`, `top_p == 0` or `min_p == 1`. Otherwise, in this order:
    penalties, temperature, min-p, top-k, renormalise, top-p. A request's choice depends on its own logits, its
    seed and the position alone: the same request gives the same tokens in any batch.
    """

    n: int = 1
    max_tokens: int | None = 16  # None: up to the context's end
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0  # 0 or -1: off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and output; divides positive, multiplies negative logits
    presence_penalty: float = 0.0  # over the output
    frequency_penalty: float = 0.0  # over the output, times the count
    no_repeat_ngram_size: int = 0  # over prompt and output; 0: off
    seed: int | None = None
    stop: tuple[str, ...] = ()  # a plain string, or any sequence, is taken too
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None  # None: none; k: the chosen token's and the k best
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        force_setattr(self, "stop", stop)
        force_setattr(self, "stop_token_ids", tuple(self.stop_token_ids or ()))

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1 or self.top_p == 0 or self.min_p == 1

    @property
    def penalized(self) -> bool:
        """Whether the choice depends on tokens before it."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
            or self.no_repeat_ngram_size > 0
        )

    def problems(self) -> list[str]:
        """Every rule that these values break, in words that name the value and the rule; empty when fine."""
        found: list[str] = []

        def check(name: str, value: float, ok: bool, rule: str) -> None:
            if not ok or value != value:
                found.append(f"{name} is {value}: it must be {rule}")

        check("n", self.n, 1 <= self.n <= 128, "from 1 to 128")
        if self.max_tokens is not None:
            check("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
            check("min_tokens", self.min_tokens, self.min_tokens <= self.max_tokens, "at most max_tokens")
        check("min_tokens", self.min_tokens, self.min_tokens >= 0, "at least 0")
        check("temperature", self.temperature, 0 <= self.temperature <= 100, "from 0 to 100")
        check("top_k", self.top_k, self.top_k >= -1, "-1 or 0 (off) or positive")
        check("top_p", self.top_p, 0 <= self.top_p <= 1, "from 0 to 1")
        check("min_p", self.min_p, 0 <= self.min_p <= 1, "from 0 to 1")
        check("repetition_penalty", self.repetition_penalty, 0 < self.repetition_penalty <= 100, "greater than 0 and at most 100")
        check("presence_penalty", self.presence_penalty, -2 <= self.presence_penalty <= 2, "from -2 to 2")
        check("frequency_penalty", self.frequency_penalty, -2 <= self.frequency_penalty <= 2, "from -2 to 2")
        check("no_repeat_ngram_size", self.no_repeat_ngram_size, 0 <= self.no_repeat_ngram_size <= 64, "from 0 to 64")
        if self.seed is not None:
            check("seed", self.seed, -(2**63) <= self.seed < 2**63, "a signed 64-bit integer")
        if self.logprobs is not None:
            check("logprobs", self.logprobs, 0 <= self.logprobs <= MAX_LOGPROBS, f"from 0 to {MAX_LOGPROBS}")
        if len(self.stop) > MAX_STOP:
            found.append(f"stop has {len(self.stop)} strings: at most {MAX_STOP}")
        if any(not text for text in self.stop):
            found.append("stop holds an empty string: each must have a character")
        return found
