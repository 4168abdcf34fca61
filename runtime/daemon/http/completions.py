"""POST /v1/completions: a text goes on. Whole answers or events, as OpenAI's clients expect them."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from runtime.daemon.http.body import read_body
from runtime.daemon.http.errors import ApiError
from runtime.daemon.http.logprobs import completion_logprobs
from runtime.daemon.http.schemas import CompletionBody
from runtime.daemon.http.serving import Answer, Job, catalogue, collect, encode, jobs, room, run, usage
from runtime.daemon.http.stream import DONE, EventStream, event, json_answer, until_gone
from runtime.frontend import Frontend, TextDelta

DEFAULT_MAX_TOKENS = 16  # OpenAI's

router = APIRouter()


@router.post("/v1/completions", response_model=None)
async def completions(request: Request) -> Response:
    """Raises ApiError, DeploymentGone and Overloaded; `errors` answers them."""
    body = await read_body(request, CompletionBody)
    call = await _prepare(catalogue(request).find(body.model), body)
    if body.stream:
        return EventStream(_events(call))
    answers = await until_gone(request.receive, collect(call.frontend, call.work))
    choices = [call.choice(index, answer.whole, call.echoes[index], 0) for index, answer in enumerate(answers)]
    return json_answer(call.head | {"choices": choices, "usage": usage(call.work, answers, body.n or 1)})


@dataclass(frozen=True)
class _Call:
    """One request, ready to run. `echoes` holds the text that each choice begins with."""

    frontend: Frontend
    body: CompletionBody
    work: list[Job]
    echoes: list[str]
    head: dict[str, object]

    def choice(self, index: int, delta: TextDelta, echo: str, offset: int) -> dict[str, object]:
        """`offset`: characters of the choice's text before this."""
        logprobs = None
        if self.body.logprobs is not None:
            logprobs = completion_logprobs(self.frontend.tokenizer, delta, offset)
        return {
            "index": index,
            "text": echo + delta.text,
            "logprobs": logprobs,
            "finish_reason": delta.finish,
            "stop_reason": delta.stop_reason,
        }


async def _prepare(frontend: Frontend, body: CompletionBody) -> _Call:
    prompts, params, echoes = [], [], []
    for item in _prompts(body):
        prompt = await encode(frontend, item, param="prompt") if isinstance(item, str) else item
        free = room(frontend, prompt, body.max_tokens, DEFAULT_MAX_TOKENS, param="prompt")
        prompts.append(prompt)
        params.append(body.sampling(free, body.logprobs))
        if body.echo:
            echoes.append(item if isinstance(item, str) else frontend.tokenizer.decode(item))
        else:
            echoes.append("")
    work = jobs(frontend, prompts, params)
    head: dict[str, object] = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model,
    }
    return _Call(frontend, body, work, [echo for echo in echoes for _ in range(body.n or 1)], head)


def _prompts(body: CompletionBody) -> list[str | list[int]]:
    """The prompts, one or several. Raises ApiError 400 for none at all."""
    prompt = body.prompt
    if not prompt:
        raise ApiError(400, "prompt is empty: it must have at least one token", param="prompt")
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return cast("list[str | list[int]]", prompt)


async def _events(call: _Call) -> AsyncGenerator[bytes, None]:
    """A streamed answer, `[DONE]` last. A failure ends it without."""
    head = call.head | ({"usage": None} if call.body.wants_usage else {})
    answers = [Answer() for _ in call.work]
    echoes = dict(enumerate(call.echoes))
    spelled = [0] * len(call.work)
    async with aclosing(run(call.frontend, call.work)) as deltas:
        async for index, delta in deltas:
            answers[index].add(delta)
            echo = echoes.pop(index, "")
            if echo or delta.text or delta.logprobs or delta.finish:
                yield event(head | {"choices": [call.choice(index, delta, echo, spelled[index])]})
            if call.body.logprobs is not None:
                spelled[index] += sum(len(call.frontend.tokenizer.token_text(token)) for token in delta.tokens)
    if call.body.wants_usage:
        yield event(head | {"choices": [], "usage": usage(call.work, answers, call.body.n or 1)})
    yield DONE
