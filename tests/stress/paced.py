"""A server of known pace: the real HTTP app over a deployment whose tokens come by the clock."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "http"))

from fake_frontend import FakeFrontend, Server, build_tokenizer

from runtime.checkpoint.tokenizer import Tokenizer
from runtime.frontend import TextDelta
from runtime.protocol import FINISH_LENGTH, TokensOut
from runtime.sampling import SamplingParams
from runtime.stress.client import Target
from runtime.text import TextStream

FIRST_S, NEXT_S = 0.05, 0.01

__all__ = ["PacedFrontend", "Server", "build_tokenizer", "target"]


class PacedFrontend(FakeFrontend):
    """The first token `FIRST_S` after the request, then one every `NEXT_S`, by the clock: lateness does not add up.

    `tokens` counts what was sent, `peak` the most requests at once, `late_s` is how long after its time each token was.
    Every `fail_every`-th request fails with `fail`, before its token `fail_at`.
    """

    tokens = open = peak = 0
    fail_every = 1

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.late_s: list[float] = []

    async def generate(self, prompt: list[int], params: SamplingParams) -> AsyncIterator[TextDelta]:
        begun = time.monotonic()
        self.started += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        self.seen.append((prompt, params))
        fails = self.fail is not None and self.started % self.fail_every == 0
        stream = TextStream(self.tokenizer, params)
        try:
            for i in range(params.max_tokens):
                if fails and i == self.fail_at:
                    raise self.fail
                due = begun + FIRST_S + i * NEXT_S
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self.late_s.append(time.monotonic() - due)
                finish = FINISH_LENGTH if i + 1 == params.max_tokens else None
                self.tokens += 1
                yield stream.add(TokensOut("r", [100], finish, cached_tokens=0))
        finally:
            self.open -= 1


def target(server: Server, name: str = "fox") -> Target:
    return Target(server.url, name)
