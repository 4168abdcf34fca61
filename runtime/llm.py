"""Generation without a daemon, with vLLM's names: a script written for vLLM runs after changing the import.

The engine runs in the caller's process, torch only in the ranks.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import zmq
from pydantic import ValidationError

from runtime.checkpoint.config import read_shape
from runtime.checkpoint.tokenizer import Tokenizer
from runtime.daemon.launcher import RankGroup, Zygote
from runtime.daemon.rendezvous import binding, endpoints_under
from runtime.daemon.settle import Machine, settle
from runtime.engine.core import Engine
from runtime.engine.messages import Attach
from runtime.engine.ranks import RankSockets
from runtime.interrupt import Held, interrupts_held
from runtime.protocol import Generate, TokenLogprobs, TokensOut
from runtime.sampling import SamplingParams
from runtime.spec import DeploymentSpec, complaints
from runtime.text import TextStream

Prompt = str | Sequence[int] | Mapping[str, Any]

_WATCH_S = 0.1
_VLLM_NAMES = {
    "tensor_parallel_size": "tp",
    "pipeline_parallel_size": "pp",
    "data_parallel_size": "dp",
    "expert_parallel_size": "ep",
}
# arguments of vLLM's LLM that change nothing here
_IGNORED = {"trust_remote_code", "disable_log_stats", "tokenizer_mode", "disable_custom_all_reduce", "load_format"}


class RanksFailed(RuntimeError):
    """A rank died or stood still. The message names the first cause."""


@dataclass
class CompletionOutput:
    """One sequence. `logprobs`: one a token, if asked for."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: list[TokenLogprobs] | None = None

    @property
    def cumulative_logprob(self) -> float | None:
        return None if self.logprobs is None else sum(each.logprob for each in self.logprobs)


@dataclass
class RequestMetrics:
    """Seconds, from the call of `generate`."""

    first_token_time: float | None = None
    finished_time: float | None = None


@dataclass
class RequestOutput:
    """A prompt and its `n` sequences."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    finished: bool = False


@dataclass
class _Running:
    request: RequestOutput
    output: CompletionOutput
    text: TextStream | None


class LLM:
    """A model under a layout, for offline generation.

    Takes vLLM's argument names (`tensor_parallel_size`, `gpu_memory_utilization`, `max_model_len`, ...) and every field of
    `DeploymentSpec`. Raises CheckpointError, LaunchRefused or ValueError before any process is started, RanksFailed after.
    """

    def __init__(self, model: str | os.PathLike[str], *, zygote: Zygote | None = None, hub: str = "", **options: Any) -> None:
        """`zygote`: one that several share, and that stays; None: an own one. `hub`: where ranks send telemetry; "": nowhere."""
        self._hub = hub
        self.spec = _spec(model, options)
        self.shape = read_shape(self.spec.model)
        self.tokenizer = Tokenizer.from_directory(self.spec.model) if (self.spec.model / "tokenizer.json").is_file() else None
        self._directory = tempfile.TemporaryDirectory(prefix="shardscope-")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._ids = itertools.count()
        self._zygote = zygote
        self._owns_zygote = zygote is None
        self._group: RankGroup | None = None
        self._sockets: RankSockets | None = None
        started = time.perf_counter()
        try:
            self._launch()
        except BaseException:
            self.close()
            raise
        self.load_s = time.perf_counter() - started

    def _launch(self) -> None:
        spec = self.spec
        endpoints = endpoints_under(Path(self._directory.name), spec.layout.world_size, self._hub if spec.telemetry else "")
        settle(spec, self.shape, Machine.here())  # refuses before there is a zygote
        self._zygote = self._zygote or Zygote()
        bind = binding(spec, self.shape, 1, endpoints)
        self._sockets = RankSockets(self._context, bind)
        self._group = RankGroup.launch(spec, self.shape, 1, endpoints, None, self._zygote)
        if not self._group.wait():
            raise RanksFailed(str(self._group.failure))
        self.max_model_len = self._group.max_model_len
        self.engine = Engine(spec.named().name, max_queue=1 << 30)
        self.engine.attach(bind, Attach(1, self._group.kv_blocks, self.max_model_len))

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Generate for every prompt: text, token ids, or {"prompt": ...} / {"prompt_token_ids": ...}. In the prompts' order.

        Raises ValueError for a bad prompt or parameter, before anything runs.
        """
        requests: list[RequestOutput] = []
        running: dict[str, _Running] = {}
        messages: list[Generate] = []
        listed = _as_list(prompts)
        for prompt, params in zip(listed, _each_params(sampling_params, len(listed)), strict=True):
            request = self._request(prompt, params)
            requests.append(request)
            for output in request.outputs:
                name = f"{request.request_id}-{output.index}"
                stream = TextStream(self.tokenizer, params) if self.tokenizer else None
                running[name] = _Running(request, output, stream)
                seed = None if params.seed is None else (params.seed + output.index + 2**63) % 2**64 - 2**63
                messages.append(Generate(name, request.prompt_token_ids, msgspec.structs.replace(params, n=1, seed=seed)))
        self._run(messages, running)
        return requests

    def chat(
        self, messages: Sequence[Any], sampling_params: SamplingParams | None = None, use_tqdm: bool = False
    ) -> list[RequestOutput]:
        """Generate the next message of one conversation, or of several."""
        if self.tokenizer is None:
            raise ValueError(f"{self.spec.model} has no tokenizer.json: chat needs one")
        conversations = [messages] if messages and isinstance(messages[0], Mapping) else messages
        texts = [self.tokenizer.apply_chat_template(conversation) for conversation in conversations]
        # the template writes the special tokens itself
        return self.generate([self.tokenizer.encode(text, add_special_tokens=False) for text in texts], sampling_params)

    def _request(self, prompt: Prompt, params: SamplingParams) -> RequestOutput:
        problems = params.problems()
        if problems:
            raise ValueError("; ".join(problems))
        text, tokens = self._tokens(prompt)
        if not tokens:
            raise ValueError("the prompt is empty: it must have one token at least")
        if len(tokens) >= self.max_model_len:
            raise ValueError(f"the prompt has {len(tokens)} tokens: it must be shorter than max_model_len, {self.max_model_len}")
        bad = next((token for token in tokens if not 0 <= token < self.shape.vocab_size), None)
        if bad is not None:
            raise ValueError(f"token id {bad} is outside the vocabulary of {self.shape.vocab_size}")
        if params.stop and self.tokenizer is None:
            raise ValueError(f"{self.spec.model} has no tokenizer.json: stop strings need one")
        outputs = [CompletionOutput(i, logprobs=None if params.logprobs is None else []) for i in range(params.n)]
        return RequestOutput(str(next(self._ids)), text, tokens, outputs)

    def _tokens(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        if isinstance(prompt, Mapping):
            prompt = prompt["prompt_token_ids"] if "prompt_token_ids" in prompt else prompt["prompt"]
        if not isinstance(prompt, str):
            return None, [int(token) for token in prompt]
        if self.tokenizer is None:
            raise ValueError(f"{self.spec.model} has no tokenizer.json: give prompt_token_ids")
        return prompt, self.tokenizer.encode(prompt)

    def _run(self, messages: list[Generate], running: dict[str, _Running]) -> None:
        # a step that is planned and not sent, or answered and not applied, would be waited for by the next call, forever
        with interrupts_held() as interrupt:
            started = time.perf_counter()
            try:
                for message in messages:
                    self.engine.add(message)
                for outputs in self._steps(interrupt):
                    now = time.perf_counter() - started
                    for out in outputs:
                        if out.request in running:
                            self._give(out, running, now)
            except BaseException:
                for name in running:
                    self.engine.abort(name)
                raise

    def _give(self, out: TokensOut, running: dict[str, _Running], now: float) -> None:
        at = running[out.request]
        _take(at, out, now)
        if at.output.finish_reason is not None:
            del running[out.request]
            if out.finish is None:
                self.engine.abort(out.request)

    def _steps(self, interrupt: Held) -> Iterator[list[TokensOut]]:
        """Drive the ranks until nothing is left to do; each step's outputs."""
        group, sockets = self._group, self._sockets
        if group is None or sockets is None:
            raise RuntimeError("this LLM is closed")
        poller = zmq.Poller()
        poller.register(sockets.results, zmq.POLLIN)
        poller.register(group.fileno(), zmq.POLLIN)
        watched = 0.0
        while self.engine.busy or self.engine.in_flight:
            interrupt.let_through()
            for replica, plan in self.engine.plans():
                sockets.send(replica, plan)
            events = dict(poller.poll(int(_WATCH_S * 1000)))
            if group.fileno() in events or time.monotonic() - watched > _WATCH_S:
                watched = time.monotonic()
                group.poll()
                if group.failure is not None:
                    self.engine.detach(str(group.failure))
                    raise RanksFailed(str(group.failure))
            for result in sockets.received():
                yield self.engine.apply(result)
        self.engine.finished.clear()

    def close(self) -> None:
        """End the ranks. Safe to call twice."""
        if self._sockets is not None:
            self._sockets.halt()
        if self._group is not None:
            self._group.stop(grace=0.0 if self._group.failure else 1.0)  # the peers of a dead rank cannot leave by themselves
        if self._sockets is not None:
            self._sockets.close()
        if self._zygote is not None and self._owns_zygote:
            self._zygote.close()
        self._group = self._sockets = self._zygote = None
        self._context.destroy(linger=0)
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _take(at: _Running, out: TokensOut, now: float) -> None:
    """Add a step's tokens to a sequence."""
    output, metrics = at.output, at.request.metrics
    if out.error is not None:
        raise RanksFailed(out.error)
    if metrics.first_token_time is None:
        metrics.first_token_time = now
    reason: str | int | None
    if at.text is None:
        output.token_ids += out.tokens
        logprobs, finish, reason = out.logprobs, out.finish, out.stop_token
    else:
        delta = at.text.add(out)
        output.text += delta.text
        output.token_ids += delta.tokens
        logprobs, finish, reason = delta.logprobs, delta.finish, delta.stop_reason
    if output.logprobs is not None:
        output.logprobs += logprobs or []
    output.finish_reason, output.stop_reason = finish, reason
    if all(each.finish_reason is not None for each in at.request.outputs):
        at.request.finished, metrics.finished_time = True, now


def _spec(model: str | os.PathLike[str], options: dict[str, Any]) -> DeploymentSpec:
    """Raises ValueError naming the argument and the rule."""
    given = {_VLLM_NAMES.get(name, name): value for name, value in options.items() if name not in _IGNORED}
    given = {name: value for name, value in given.items() if value is not None}
    unknown = sorted(set(given) - set(DeploymentSpec.model_fields))
    if unknown:
        raise TypeError(
            f"LLM() takes no argument {', '.join(unknown)}; it takes {', '.join(sorted(DeploymentSpec.model_fields))}"
        )
    try:
        return DeploymentSpec(model=Path(model), **given)
    except ValidationError as error:
        raise ValueError("; ".join(complaints(error).values())) from None


def _as_list(prompts: Any) -> list[Any]:
    single = isinstance(prompts, str | Mapping) or (bool(prompts) and isinstance(prompts[0], int))
    return [prompts] if single else list(prompts)


def _each_params(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise ValueError(f"{len(params)} sampling_params for {count} prompts: give one, or one each")
    return list(params)
