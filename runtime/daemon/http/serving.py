"""From a checked body to running sequences: which deployment, which tokens, how many more, and their text as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

import msgspec
from fastapi import Request

from runtime.daemon.http.errors import ApiError
from runtime.daemon.http.schemas import MAX_SEQUENCES
from runtime.frontend import DeploymentGone, Frontend, TextDelta
from runtime.protocol import FINISH_LENGTH, FINISH_STOP, TokenLogprobs
from runtime.sampling import SamplingParams

RETRY_AFTER_S = 2  # a deployment that is starting or restarting
CHARS_PER_TOKEN = 32  # no text averages more; a longer one is refused before it is encoded, which takes a second a megabyte


@dataclass(frozen=True)
class Catalogue:
    """The deployments by name, as they are at each request."""

    frontends: Callable[[], Mapping[str, Frontend]]

    def find(self, name: str) -> Frontend:
        """Raises ApiError: 404 for a name that is not served, 503 for a deployment that cannot serve yet."""
        frontends = self.frontends()
        if name not in frontends:
            raise unknown_model(name, frontends)
        return _ready(frontends[name])

    def any(self) -> Frontend:
        """For routes that name no model: the first deployment that is ready. Raises ApiError 503 when none is."""
        frontends = list(self.frontends().values())
        for frontend in frontends:
            if frontend.ready:
                return frontend
        if not frontends:
            raise ApiError(503, "nothing is deployed", headers={"Retry-After": str(RETRY_AFTER_S)})
        return _ready(frontends[0])


def catalogue(request: Request) -> Catalogue:
    return cast(Catalogue, request.app.state.catalogue)


def unknown_model(name: str, frontends: Mapping[str, Frontend]) -> ApiError:
    known = ", ".join(sorted(frontends)) or "none"
    return ApiError(404, f"no model '{name[:200]}' is deployed; deployed: {known}", param="model", code="model_not_found")


def _ready(frontend: Frontend) -> Frontend:
    if not frontend.ready:
        message = f"deployment '{frontend.name}' is not ready to serve"
        raise ApiError(503, message, code="not_ready", headers={"Retry-After": str(RETRY_AFTER_S)})
    return frontend


async def encode(frontend: Frontend, text: str, *, param: str, add_special_tokens: bool = True) -> list[int]:
    """`text` as token ids, made in a thread so that nobody else's tokens wait for it.

    Raises ApiError 400 for a text that is empty, is no Unicode, or that no context could hold.
    """
    if not text:
        raise ApiError(400, f"{param} is empty: it must have at least one token", param=param)
    if len(text) > frontend.max_model_len * CHARS_PER_TOKEN:
        held = f"{param} has {len(text)} characters: more than the context of {frontend.max_model_len} tokens can hold"
        raise ApiError(400, held, param=param, code="context_length_exceeded")
    try:
        return await asyncio.to_thread(frontend.tokenizer.encode, text, add_special_tokens)
    except ValueError as error:
        raise ApiError(400, f"{param}: {error}", param=param) from None


def room(frontend: Frontend, prompt: list[int], asked: int | None, default: int | None, *, param: str) -> int:
    """Tokens that may be generated after `prompt`: as many as `asked`, else `default`, else (and at most) to the context's end.

    Raises ApiError 400 for a prompt that is empty, has ids out of the vocabulary, or does not fit.
    """
    if not prompt:
        raise ApiError(400, f"{param} is empty: it must have at least one token", param=param)
    check_ids(frontend, prompt, param=param)
    limit = frontend.max_model_len
    free = limit - len(prompt)
    if free < 1 or (asked is not None and asked > free):
        wants = "and at least 1 must be generated" if asked is None else f"and {asked} are to be generated"
        message = f"the context holds {limit} tokens, but {param} has {len(prompt)} {wants}"
        raise ApiError(400, message, param=param, code="context_length_exceeded")
    if asked is not None:
        return asked
    return free if default is None else min(default, free)


def check_ids(frontend: Frontend, ids: Sequence[int], *, param: str) -> None:
    """Raises ApiError 400 when one is out of the model's vocabulary."""
    size = frontend.shape.vocab_size
    if ids and (min(ids) < 0 or max(ids) >= size):
        wrong = next(token for token in ids if not 0 <= token < size)
        raise ApiError(400, f"{param} has token id {str(wrong)[:40]}: ids go from 0 to {size - 1}", param=param)


@dataclass(frozen=True)
class Job:
    """One sequence to generate."""

    prompt: list[int]
    params: SamplingParams


@dataclass
class Answer:
    """A sequence as far as it has come."""

    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    last: TextDelta | None = None
    cached_tokens: int = 0

    def add(self, delta: TextDelta) -> None:
        self.texts.append(delta.text)
        self.tokens += delta.tokens
        self.logprobs += delta.logprobs or ()
        self.last = delta
        self.cached_tokens = max(self.cached_tokens, delta.cached_tokens)

    @property
    def whole(self) -> TextDelta:
        """All deltas as one."""
        finish, reason = (self.last.finish, self.last.stop_reason) if self.last else (None, None)
        return TextDelta("".join(self.texts), self.tokens, self.logprobs, finish, reason, self.cached_tokens)


def jobs(frontend: Frontend, prompts: Sequence[list[int]], params: Sequence[SamplingParams]) -> list[Job]:
    """Each prompt n times, in the order of the answer's choices; with a seed, the i-th of them has seed + i.

    Raises ApiError 400 for more than `MAX_SEQUENCES`, or stop token ids out of the vocabulary.
    """
    total = sum(each.n for each in params)
    if total > MAX_SEQUENCES:
        raise ApiError(400, f"the prompts times n make {total} sequences: at most {MAX_SEQUENCES} in one request", param="n")
    for each in params[:1]:
        check_ids(frontend, each.stop_token_ids, param="stop_token_ids")
    return [
        Job(prompt, msgspec.structs.replace(each, n=1, seed=_seed(each.seed, i)))
        for prompt, each in zip(prompts, params, strict=True)
        for i in range(each.n)
    ]


def _seed(seed: int | None, i: int) -> int | None:
    return None if seed is None else (seed + i + 2**63) % 2**64 - 2**63


async def run(frontend: Frontend, work: Sequence[Job]) -> AsyncGenerator[tuple[int, TextDelta], None]:
    """The deltas of all jobs as they come, each with its job's index. Closing this aborts what still runs.

    Raises DeploymentGone and Overloaded; the first failure ends all.
    """
    if len(work) == 1:
        async with aclosing(_run_one(frontend, work[0])) as deltas:
            async for delta in deltas:
                yield 0, delta
        return

    arrived: asyncio.Queue[tuple[int, TextDelta] | Exception] = asyncio.Queue()

    async def pump(index: int, job: Job) -> None:
        try:
            async with aclosing(_run_one(frontend, job)) as deltas:
                async for delta in deltas:
                    arrived.put_nowait((index, delta))
        except Exception as error:
            arrived.put_nowait(error)

    pumps = [asyncio.create_task(pump(index, job)) for index, job in enumerate(work)]
    running = len(pumps)
    try:
        while running:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            running -= item[1].finish is not None
            yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _run_one(frontend: Frontend, job: Job) -> AsyncGenerator[TextDelta, None]:
    """One job's deltas, the last with a finish. Raises DeploymentGone at any other end: no answer may look whole that is not."""
    stream = cast(AsyncGenerator[TextDelta, None], frontend.generate(job.prompt, job.params))
    async with aclosing(stream) as deltas:
        async for delta in deltas:
            if delta.finish not in (None, FINISH_STOP, FINISH_LENGTH):
                break
            yield delta
            if delta.finish is not None:
                return
    raise DeploymentGone(f"deployment '{frontend.name}' ended the request before its answer was whole")


async def collect(frontend: Frontend, work: Sequence[Job]) -> list[Answer]:
    """All answers, whole, in the order of `work`. Raises as `run`."""
    answers = [Answer() for _ in work]
    async with aclosing(run(frontend, work)) as deltas:
        async for index, delta in deltas:
            answers[index].add(delta)
    return answers


def usage(work: Sequence[Job], answers: Sequence[Answer], n: int) -> dict[str, object]:
    """Tokens as OpenAI counts them: a prompt once, however many answers it has."""
    prompt = sum(len(job.prompt) for job in work[::n])
    completion = sum(len(answer.tokens) for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(answer.cached_tokens for answer in answers[::n])},
    }
