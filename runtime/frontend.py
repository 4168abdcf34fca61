"""What the HTTP server and the command line need of a running deployment: text in, text out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct

from runtime.checkpoint.config import ModelShape
from runtime.checkpoint.tokenizer import Tokenizer
from runtime.protocol import TokenLogprobs
from runtime.sampling import SamplingParams


class TextDelta(Struct, frozen=True):
    """What a step added to one sequence. `text` is already cut at a stop string and holds whole characters alone.

    `stop_reason`: the stop string or stop token id that ended it, when `finish` is "stop" by one.
    """

    text: str
    tokens: list[int]
    logprobs: list[TokenLogprobs] | None = None
    finish: str | None = None
    stop_reason: str | int | None = None
    cached_tokens: int = 0


class DeploymentGone(Exception):
    """The deployment cannot go on with the request: a rank died, or it was stopped. The message names the cause."""


class Overloaded(Exception):
    """The queue is full; `retry_after_s` says when to come back."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Frontend(Protocol):
    """One deployment, as a server sees it."""

    @property
    def name(self) -> str: ...

    @property
    def created(self) -> int:
        """Unix seconds."""
        ...

    @property
    def ready(self) -> bool: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def shape(self) -> ModelShape: ...

    @property
    def max_model_len(self) -> int: ...

    def generate(self, prompt: list[int], params: SamplingParams) -> AsyncIterator[TextDelta]:
        """Stream one sequence. `params.n` is 1. Closing the iterator aborts the request.

        Raises DeploymentGone, also in the middle, and Overloaded before the first delta.
        """
        ...
