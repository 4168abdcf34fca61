"""text-generation-inference's routes, in its shapes; Takeoff's clients, who use the same ones, get theirs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from runtime.daemon.http.body import read_body
from runtime.daemon.http.errors import ApiError
from runtime.daemon.http.logprobs import LOWEST
from runtime.daemon.http.schemas import MAX_SEQUENCES
from runtime.daemon.http.serving import Answer, Job, catalogue, collect, encode, jobs, room, run
from runtime.daemon.http.stream import EventStream, json_answer, until_gone
from runtime.daemon.http.tgi_schemas import GenerateBody
from runtime.frontend import Frontend, TextDelta
from runtime.sampling import MAX_STOP

DEFAULT_NEW_TOKENS = 100  # text-generation-inference's, since its version 3

router = APIRouter()


@router.post("/generate", response_model=None)
async def generate(request: Request) -> Response:
    return json_answer(await _answer(request, await read_body(request, GenerateBody)))


@router.post("/generate_stream", response_model=None)
async def generate_stream(request: Request) -> Response:
    return await _stream(request, await read_body(request, GenerateBody))


@router.post("/", response_model=None)
async def compatible(request: Request) -> Response:
    """As Hugging Face's hosted API: `stream` chooses, and a whole answer is in a list."""
    body = await read_body(request, GenerateBody)
    return await _stream(request, body) if body.stream else json_answer([await _answer(request, body)])


@router.get("/info", response_model=None)
async def info(request: Request) -> Response:
    frontend = catalogue(request).any()
    return json_answer(
        {
            "model_id": frontend.name,
            "model_sha": None,
            "model_dtype": frontend.shape.dtype,
            "model_pipeline_tag": "text-generation",
            "max_best_of": 1,
            "max_stop_sequences": MAX_STOP,
            "max_input_tokens": frontend.max_model_len - 1,
            "max_total_tokens": frontend.max_model_len,
            "max_client_batch_size": MAX_SEQUENCES,
            "router": "shardscope",
            "version": _version(),
        }
    )


@dataclass(frozen=True)
class _Call:
    """One request, ready to run."""

    frontend: Frontend
    body: GenerateBody
    work: list[Job]

    def full_text(self, prompt: str, text: str) -> str:
        return prompt + text if self.body.settings.return_full_text else text


async def _prepare(request: Request, body: GenerateBody, logprobs: bool) -> _Call:
    found = catalogue(request)
    frontend = found.any() if body.model is None else found.find(body.model)
    if not body.prompts:
        raise ApiError(400, "text is an empty list: it must hold at least one prompt", param="text")
    settings = body.settings
    prompts, params = [], []
    for text in body.prompts:
        prompt = await encode(frontend, text, param="inputs" if body.text is None else "text")
        prompt = prompt[-settings.truncate :] if settings.truncate else prompt
        prompts.append(prompt)
        free = room(frontend, prompt, settings.max_new_tokens, DEFAULT_NEW_TOKENS, param="inputs")
        params.append(settings.sampling(free, logprobs))
    return _Call(frontend, body, jobs(frontend, prompts, params))


async def _answer(request: Request, body: GenerateBody) -> dict[str, object]:
    details = bool(body.settings.details)
    call = await _prepare(request, body, logprobs=details)
    answers = await until_gone(request.receive, collect(call.frontend, call.work))
    texts = [call.full_text(prompt, answer.whole.text) for prompt, answer in zip(body.prompts, answers, strict=True)]
    if isinstance(body.text, list):
        return {"text": texts}
    whole: dict[str, object] = {"generated_text": texts[0]}
    if body.text is not None:
        whole["text"] = texts[0]
    if details:
        delta = answers[0].whole
        tokens = [_token(call.frontend, delta, i) for i in range(len(delta.tokens))]
        whole["details"] = _ending(call, delta) | {"prefill": [], "tokens": tokens}
    return whole


async def _stream(request: Request, body: GenerateBody) -> Response:
    if len(body.prompts) != 1:
        raise ApiError(400, "a stream answers exactly one text", param="text")
    call = await _prepare(request, body, logprobs=not body.takeoff)
    return EventStream(_takeoff_events(call) if body.takeoff else _token_events(call))


async def _token_events(call: _Call) -> AsyncGenerator[bytes, None]:
    """One event a token; joined, their texts are the generated text. The last one carries it whole."""
    answer = Answer()
    index = 0
    async with aclosing(run(call.frontend, call.work)) as deltas:
        async for _, delta in deltas:
            answer.add(delta)
            for i in range(len(delta.tokens)):
                index += 1
                last = i + 1 == len(delta.tokens)
                token = _token(call.frontend, delta, i)
                # A delta's text need not be its tokens' own: it may have been held back. Clients leave out the text of
                # special tokens, so one that brings such text does not count as special.
                token["text"] = delta.text if last else ""
                token["special"] = token["special"] and not token["text"]
                told = {"index": index, "token": token}
                ended = last and delta.finish is not None
                text = call.full_text(call.body.prompts[0], answer.whole.text) if ended else None
                yield _event(told | {"generated_text": text, "details": _ending(call, answer.whole) if ended else None})


async def _takeoff_events(call: _Call) -> AsyncGenerator[bytes, None]:
    """Bare text. A line break inside it is a further `data:` line of the same event, as server-sent events have it."""
    async with aclosing(run(call.frontend, call.work)) as deltas:
        async for _, delta in deltas:
            if delta.text or delta.finish:
                yield "".join(f"data: {line}\n" for line in delta.text.split("\n")).encode() + b"\n"


def _event(value: object) -> bytes:
    # its own server writes no blank after the colon, and clients have come to rely on that
    return b"data:" + msgspec.json.encode(value) + b"\n\n"


def _token(frontend: Frontend, delta: TextDelta, i: int) -> dict[str, object]:
    token = delta.tokens[i]
    return {
        "id": token,
        "text": frontend.tokenizer.token_text(token),
        "logprob": max(delta.logprobs[i].logprob, LOWEST) if delta.logprobs else None,
        "special": token in frontend.tokenizer.special_ids,
    }


def _ending(call: _Call, answer: TextDelta) -> dict[str, object]:
    reason = "length" if answer.finish == "length" else "stop_sequence" if isinstance(answer.stop_reason, str) else "eos_token"
    return {
        "finish_reason": reason,
        "generated_tokens": len(answer.tokens),
        "input_length": len(call.work[0].prompt),
        "seed": call.work[0].params.seed,
    }


def _version() -> str:
    try:
        return version("shardscope")
    except PackageNotFoundError:
        return "unknown"
