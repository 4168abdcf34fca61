"""The bodies of OpenAI's API. Types are strict; what is not known is ignored, but what would change the answer is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from runtime.daemon.http.errors import ApiError
from runtime.sampling import SamplingParams

MAX_SEQUENCES = 1024  # of one request: its prompts times n
MAX_PROMPT_IDS = 2**21  # no context is longer

Int = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # what the wire to the engine can carry
StopText = Annotated[str, Field(max_length=1000)]
# bounded, and one error is enough: a body of millions of items must not hold up everybody's tokens
Ids = Annotated[list[int], Field(max_length=MAX_PROMPT_IDS, fail_fast=True)]
Texts = Annotated[list[str], Field(max_length=MAX_SEQUENCES, fail_fast=True)]

_OFF: tuple[object, ...] = (None, "", [], {}, False)
_REFUSED_ANYWHERE = (
    "logit_bias",
    "use_beam_search",
    "bad_words",
    "allowed_token_ids",
    "prompt_logprobs",
    "truncate_prompt_tokens",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
)


class Body(BaseModel):
    """A JSON object. `refused` names fields of the API that are not served, each with the values that leave it off."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    refused: ClassVar[Mapping[str, tuple[object, ...]]] = {}

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        extra = self.model_extra or {}
        for name, off in self.refused.items():
            if name in extra and extra[name] not in off:
                raise PydanticCustomError("unsupported", "not supported here; leave it out", {"param": name})
        return self


class Sampled(Body):
    """What OpenAI's two routes share, and vLLM's additions. A field that is absent or null has `SamplingParams`' default."""

    model: str
    n: Int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    min_tokens: Int | None = None
    temperature: float | None = None
    top_k: Int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    no_repeat_ngram_size: Int | None = None
    seed: Int | None = None
    stop: StopText | Annotated[list[StopText], Field(fail_fast=True)] | None = None
    stop_token_ids: Ids | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None

    @model_validator(mode="after")
    def _options_of_streams(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("unsupported", "only allowed when stream is true", {"param": "stream_options"})
        return self

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling(self, max_tokens: int, logprobs: int | None) -> SamplingParams:
        """Raises ApiError 400 with every rule that the values break."""
        named = {name: getattr(self, name, None) for name in SamplingParams.__struct_fields__}
        named |= {"max_tokens": max_tokens, "logprobs": logprobs}
        named["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        named["stop_token_ids"] = tuple(self.stop_token_ids or ())
        return checked(SamplingParams(**{name: value for name, value in named.items() if value is not None}))


class StreamOptions(Body):
    include_usage: bool | None = None


class CompletionBody(Sampled):
    """POST /v1/completions."""

    refused = dict.fromkeys((*_REFUSED_ANYWHERE, "suffix", "prompt_embeds"), _OFF) | {
        "response_format": (None, {"type": "text"}),
    }

    prompt: str | Texts | Ids | Annotated[list[Ids], Field(max_length=MAX_SEQUENCES, fail_fast=True)]
    max_tokens: Int | None = None
    echo: bool | None = None
    logprobs: Int | None = None
    best_of: Int | None = None

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise PydanticCustomError("unsupported", "only supported when equal to n", {"param": "best_of"})
        if self.echo and self.logprobs is not None:
            raise PydanticCustomError("unsupported", "not supported together with logprobs", {"param": "echo"})
        return self


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    refused = dict.fromkeys(("tool_calls", "function_call", "audio"), _OFF)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]

    def for_template(self) -> dict[str, str]:
        """Chat templates know one content string and, older than OpenAI's newest role, call a developer "system"."""
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatBody(Sampled):
    """POST /v1/chat/completions."""

    refused = dict.fromkeys(
        (
            *_REFUSED_ANYWHERE,
            "functions",
            "audio",
            "web_search_options",
            "echo",
            "continue_final_message",
            "chat_template",
            "documents",
        ),
        _OFF,
    ) | {
        "tool_choice": (None, "none", "auto"),
        "function_call": (None, "none", "auto"),
        "response_format": (None, {"type": "text"}),
        "modalities": (None, [], ["text"]),
        "add_generation_prompt": (None, True),
    }

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_tokens: Int | None = None
    max_completion_tokens: Int | None = None
    logprobs: bool | None = None
    top_logprobs: Int | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        extra = self.model_extra or {}
        if taken := {"messages", "add_generation_prompt"} & set(self.chat_template_kwargs or ()):
            raise PydanticCustomError(
                "unsupported", f"has {min(taken)}, which is not its to set", {"param": "chat_template_kwargs"}
            )
        if extra.get("tools") and extra.get("tool_choice") != "none":
            raise PydanticCustomError("unsupported", 'not supported unless tool_choice is "none"', {"param": "tools"})
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("unsupported", "only allowed when logprobs is true", {"param": "top_logprobs"})
        return self

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


def checked(params: SamplingParams) -> SamplingParams:
    """`params`. Raises ApiError 400 with every rule that they break."""
    problems = params.problems()
    if problems:
        raise ApiError(400, "; ".join(problems), param=problems[0].split()[0])
    return params
