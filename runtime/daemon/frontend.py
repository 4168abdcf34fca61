"""One deployment as the HTTP server sees it: requests to the engine, its tokens back as text."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable

from runtime.checkpoint.config import ModelShape
from runtime.checkpoint.tokenizer import Tokenizer
from runtime.frontend import DeploymentGone, Overloaded, TextDelta
from runtime.protocol import FINISH_ABORT, FINISH_ERROR, Abort, Generate, Outputs, TokensOut
from runtime.sampling import SamplingParams
from runtime.text import TextStream

QUEUE_FULL = "queue full"  # how the engine's refusal begins
Send = Callable[[Generate | Abort], None]


class DeploymentFrontend:
    """Implements `runtime.frontend.Frontend`. The supervisor opens and closes it and hands it what the engine says."""

    def __init__(self, name: str, shape: ModelShape, tokenizer: Tokenizer, max_model_len: int, send: Send) -> None:
        self.name, self.shape, self.tokenizer, self.max_model_len = name, shape, tokenizer, max_model_len
        self.created = int(time.time())
        self.ready = False
        self._send = send
        self._closed = "is starting"  # why it is not ready
        self._streams: dict[str, asyncio.Queue[TokensOut | DeploymentGone]] = {}
        self._reaches: dict[str, int] = {}
        self._numbers = itertools.count(1)

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    @property
    def reach(self) -> int:
        """The tokens, prompt and output, to which the longest open request may grow."""
        return max(self._reaches.values(), default=0)

    def open(self, max_model_len: int) -> None:
        self.max_model_len = max_model_len
        self.ready = True

    def narrow(self, max_model_len: int) -> None:
        """Admit nothing longer, until it is opened again."""
        self.max_model_len = min(self.max_model_len, max_model_len)

    def close(self, why: str) -> None:
        """Admit nothing more; what runs goes on."""
        self.ready = False
        self._closed = why

    def fail(self, why: str) -> None:
        """End every stream with DeploymentGone, and admit nothing more."""
        self.close(why)
        for queue in self._streams.values():
            queue.put_nowait(DeploymentGone(f"deployment '{self.name}' {why}"))

    def deliver(self, outputs: Outputs) -> None:
        """What a step brought. A request that has left is none of ours any more."""
        for out in outputs.items:
            if out.request in self._streams:
                self._streams[out.request].put_nowait(out)

    async def generate(self, prompt: list[int], params: SamplingParams) -> AsyncGenerator[TextDelta, None]:
        """See `Frontend.generate`."""
        if not self.ready:
            raise DeploymentGone(f"deployment '{self.name}' {self._closed}")
        request = f"{self.name}-{next(self._numbers)}"
        queue: asyncio.Queue[TokensOut | DeploymentGone] = asyncio.Queue()
        stream = TextStream(self.tokenizer, params)
        self._streams[request] = queue
        most = self.max_model_len if params.max_tokens is None else len(prompt) + params.max_tokens
        self._reaches[request] = min(most, self.max_model_len)
        self._send(Generate(request, prompt, params))
        finished = False
        try:
            while not finished:
                out = await queue.get()
                if isinstance(out, DeploymentGone):
                    finished = True
                    raise out
                finished = out.finish is not None
                self._refuse(out)
                delta = stream.add(out)
                if stream.stopped and not finished:
                    self._send(Abort(request))
                    finished = True
                yield delta
        finally:
            del self._streams[request], self._reaches[request]
            if not finished:
                self._send(Abort(request))

    def _refuse(self, out: TokensOut) -> None:
        """Raises what the engine means by ending a request that we did not end."""
        if out.finish == FINISH_ERROR:
            if out.error and out.error.startswith(QUEUE_FULL):
                raise Overloaded(out.error)
            raise DeploymentGone(out.error or "the engine gave up the request")
        if out.finish == FINISH_ABORT:
            raise DeploymentGone(out.error or f"deployment '{self.name}' ended the request: it is being stopped")
