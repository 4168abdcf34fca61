"""A real tokenizer, and a deployment that is not there: `FakeFrontend` says what its script says."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import uvicorn
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from runtime.checkpoint.chat_template import ChatTemplates
from runtime.checkpoint.config import ModelShape, RopeScaling
from runtime.checkpoint.tokenizer import Tokenizer
from runtime.daemon.http.app import create_app
from runtime.frontend import TextDelta
from runtime.protocol import FINISH_LENGTH, FINISH_STOP, TokenLogprobs, TokensOut
from runtime.sampling import SamplingParams
from runtime.text import TextStream

TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' and loop.first %}{{ raise_exception('the user speaks first') }}{%- endif %}"
    "<{{ message.role }}>{{ message.content }}</s>{%- endfor %}{%- if add_generation_prompt %}<assistant>{%- endif %}"
)
CONTEXT = 256  # tokens
EOS = 1


def build_tokenizer() -> Tokenizer:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = [AddedToken("<s>", special=True), AddedToken("</s>", special=True)]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 4, trainer)
    variables = {"eos_token": "</s>"}
    return Tokenizer(backend, variables, ChatTemplates({"default": TEMPLATE}, Path("fake"), variables))


class FakeFrontend:
    """Answers every prompt with `reply` and the end token. `fail` is raised before the token at `fail_at`.

    `started` and `closed` count requests; `seen` keeps what they asked.
    """

    def __init__(self, tokenizer: Tokenizer, name: str = "fox", reply: str = "the lazy dog sleeps") -> None:
        self.name = name
        self.created = 1_700_000_000
        self.ready = True
        self.tokenizer = tokenizer
        self.max_model_len = CONTEXT
        self.shape = shape_of(tokenizer.vocab_size)
        self.reply = reply
        self.fail: Exception | None = None
        self.fail_at = 0
        self.delay = 0.0  # seconds before each token
        self.started = self.closed = 0
        self.seen: list[tuple[list[int], SamplingParams]] = []

    async def generate(self, prompt: list[int], params: SamplingParams) -> AsyncIterator[TextDelta]:
        self.started += 1
        self.seen.append((prompt, params))
        try:
            stream = TextStream(self.tokenizer, params)
            script = [*self.tokenizer.encode(self.reply, add_special_tokens=False), EOS]
            for i, token in enumerate(script):
                if self.fail is not None and i == self.fail_at:
                    raise self.fail
                await asyncio.sleep(self.delay)
                ended = token == EOS
                finish = FINISH_STOP if ended else FINISH_LENGTH if i + 1 == params.max_tokens else None
                top = [(token, -0.25), *((other, -3.0 - other) for other in range(10, 10 + (params.logprobs or 0) - 1))]
                logprobs = None if params.logprobs is None else [TokenLogprobs(-0.25, 1, top[: params.logprobs])]
                delta = stream.add(TokensOut("r", [token], finish, cached_tokens=4, logprobs=logprobs))
                yield delta
                if delta.finish:
                    return
        finally:
            self.closed += 1


def shape_of(vocab_size: int) -> ModelShape:
    return ModelShape(
        "llama", 64, 128, 1, 4, 2, 16, vocab_size, CONTEXT, 1e-5, RopeScaling(), True, False, False, (None,), "float32", (EOS,), 0
    )


class Server:
    """The app on a loopback port that the system chose. Real sockets: disconnects are what clients do to them."""

    def __init__(self, frontend: FakeFrontend, **options) -> None:
        self.frontends = {frontend.name: frontend}
        self.alive = True
        app = create_app(lambda: self.frontends, lambda: b"up 1\n", lambda: self.alive, **options)
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        wait_until(lambda: self._server.started)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()


def wait_until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.005)
