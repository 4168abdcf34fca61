"""The client of the load: one streamed completion, timed event by event."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx
import msgspec
from msgspec import Struct

from runtime.stress.plan import Ask
from runtime.stress.sample import Sample
from runtime.stress.values import refuse

DONE = b"[DONE]"
PREFIX = b"data: "
# uvicorn closes what is idle for 5 s; a connection that it closes while we reuse it would look like a failed request
KEEPALIVE_S = 2.0


class TargetFailed(Exception):
    """The server cannot be asked at all."""


@dataclass(frozen=True)
class Target:
    """A deployment `name` of the server at `url`. `timeout_s`: silence after which a request has failed."""

    url: str
    name: str
    timeout_s: float = 60.0


class _Usage(Struct):
    completion_tokens: int = 0
    prompt_tokens_details: dict[str, int] | None = None


class _Error(Struct):
    type: str | None = None
    code: str | int | None = None


class _Event(Struct):
    choices: list[msgspec.Raw] = []
    usage: _Usage | None = None
    error: _Error | None = None


def context_of(target: Target) -> int | None:
    """Tokens of prompt and answer that the model holds, when the server says. Raises TargetFailed;
    BadPlan for an unknown model."""
    try:
        answer = httpx.get(f"{target.url}/v1/models", timeout=10, trust_env=False)
        answer.raise_for_status()
        models = {each["id"]: each for each in answer.json()["data"]}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        raise TargetFailed(f"no OpenAI API answers at {target.url}: {error}") from None
    if target.name not in models:
        raise refuse("NAME", f"'{target.name}'", f"{target.url} does not serve it", ", ".join(models) or "deploy a model first")
    held = models[target.name].get("max_model_len")
    return held if isinstance(held, int) else None


class StressClient:
    """As many connections as requests are open. `now` is the load's clock in seconds; `heard` is told when a token came."""

    def __init__(self, target: Target, now: Callable[[], float], heard: Callable[[float], None] = lambda _: None) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_S)
        # the environment's proxies would be measured along with the server
        self._http = httpx.AsyncClient(base_url=target.url, limits=limits, timeout=target.timeout_s, trust_env=False)
        self._name = target.name
        self._now, self._heard = now, heard
        self._decode = msgspec.json.Decoder(_Event).decode

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.aclose()

    def body(self, ask: Ask) -> bytes:
        fields = {
            "model": self._name,
            "prompt": list(ask.prompt),
            "max_tokens": ask.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "skip_special_tokens": False,  # a token without text has no event
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return msgspec.json.encode(fields)

    async def send(self, body: bytes, sample: Sample) -> None:
        """Fills in `sample`, with an error's kind when it fails."""
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        try:
            async with self._http.stream("POST", "/v1/completions", content=body, headers=headers) as answer:
                if answer.status_code == 200:
                    await self._read(answer, sample)
                else:
                    sample.error = f"{answer.status_code} {self._refusal(await answer.aread())}"
        except httpx.TimeoutException:
            sample.error = "timeout"
        except httpx.ConnectError:
            sample.error = "no connection"
        except (httpx.HTTPError, OSError) as error:
            sample.error = f"connection lost ({type(error).__name__})"

    async def _read(self, answer: httpx.Response, sample: Sample) -> None:
        buffer, complete = b"", False
        async for data in answer.aiter_raw():
            came = self._now()
            *whole, buffer = (buffer + data).split(b"\n\n")
            for block in whole:
                payload = block.removeprefix(PREFIX)
                if payload == DONE:
                    complete = True
                else:
                    self._take(payload, came, sample)
        if sample.error is None and not (complete and sample.events):
            sample.error = "answer without tokens" if complete else "stream ended early"

    def _take(self, payload: bytes, came: float, sample: Sample) -> None:
        try:
            event = self._decode(payload)
        except msgspec.MsgspecError:
            sample.error = "event is no JSON of a completion"
            return
        if event.error is not None:
            sample.error = f"in the stream: {event.error.code or event.error.type or 'unknown'}"
        if event.choices:
            sample.events.append(came)
            self._heard(came)
        if event.usage is not None:
            sample.output_tokens = event.usage.completion_tokens
            sample.cached_tokens = (event.usage.prompt_tokens_details or {}).get("cached_tokens", 0)

    def _refusal(self, body: bytes) -> str:
        try:
            error = self._decode(body).error
        except msgspec.MsgspecError:
            return "unknown"
        return str(error.code or error.type or "unknown") if error else "unknown"


def load_clock() -> Callable[[], float]:
    """Seconds since now, monotonic."""
    begun = time.monotonic()
    return lambda: time.monotonic() - begun
