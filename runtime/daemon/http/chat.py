"""POST /v1/chat/completions: the assistant's next message. Whole answers or events, as OpenAI's clients expect them."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from runtime.checkpoint.config import CheckpointError
from runtime.daemon.http.body import read_body
from runtime.daemon.http.errors import ApiError
from runtime.daemon.http.logprobs import chat_logprobs
from runtime.daemon.http.schemas import ChatBody
from runtime.daemon.http.serving import Answer, Job, catalogue, collect, encode, jobs, room, run, usage
from runtime.daemon.http.stream import DONE, EventStream, event, json_answer, until_gone
from runtime.frontend import Frontend, TextDelta

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(request: Request) -> Response:
    """Raises ApiError, DeploymentGone and Overloaded; `errors` answers them."""
    body = await read_body(request, ChatBody)
    call = await _prepare(catalogue(request).find(body.model), body)
    if body.stream:
        return EventStream(_events(call))
    answers = await until_gone(request.receive, collect(call.frontend, call.work))
    choices = [_whole_choice(call, index, answer.whole) for index, answer in enumerate(answers)]
    head = call.head | {"object": "chat.completion"}
    return json_answer(head | {"choices": choices, "usage": usage(call.work, answers, body.n or 1)})


@dataclass(frozen=True)
class _Call:
    """One request, ready to run."""

    frontend: Frontend
    body: ChatBody
    work: list[Job]
    head: dict[str, object]

    def logprobs(self, delta: TextDelta) -> dict[str, object] | None:
        return chat_logprobs(self.frontend.tokenizer, delta) if self.body.logprobs else None


async def _prepare(frontend: Frontend, body: ChatBody) -> _Call:
    messages = [message.for_template() for message in body.messages]
    try:
        text = frontend.tokenizer.apply_chat_template(messages, True, **(body.chat_template_kwargs or {}))
    except (CheckpointError, ValueError) as error:
        raise ApiError(400, str(error), param="messages") from error
    # the template has written the special tokens already
    prompt = await encode(frontend, text, param="messages", add_special_tokens=False)
    free = room(frontend, prompt, body.wanted_tokens, None, param="messages")
    work = jobs(frontend, [prompt], [body.sampling(free, body.wanted_logprobs)])
    head: dict[str, object] = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
    return _Call(frontend, body, work, head)


def _whole_choice(call: _Call, index: int, answer: TextDelta) -> dict[str, object]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": answer.text, "refusal": None},
        "logprobs": call.logprobs(answer),
        "finish_reason": answer.finish,
        "stop_reason": answer.stop_reason,
    }


async def _events(call: _Call) -> AsyncGenerator[bytes, None]:
    """A streamed answer: each choice's role, its text, its end; `[DONE]` last. A failure ends it without."""
    head = call.head | {"object": "chat.completion.chunk"} | ({"usage": None} if call.body.wants_usage else {})
    answers = [Answer() for _ in call.work]

    def chunk(index: int, delta: dict[str, str], **more: object) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None} | more
        return event(head | {"choices": [choice]})

    async with aclosing(run(call.frontend, call.work)) as deltas:
        async for index, delta in deltas:
            if answers[index].last is None:
                yield chunk(index, {"role": "assistant", "content": ""})
            answers[index].add(delta)
            if delta.text or delta.logprobs:
                yield chunk(index, {"content": delta.text}, logprobs=call.logprobs(delta))
            if delta.finish:
                yield chunk(index, {}, finish_reason=delta.finish, stop_reason=delta.stop_reason)
    if call.body.wants_usage:
        yield event(head | {"choices": [], "usage": usage(call.work, answers, call.body.n or 1)})
    yield DONE
