"""The bodies of text-generation-inference's API, and of Takeoff's clients, who send `text` and flat parameters."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from runtime.daemon.http.schemas import Body, Int, StopText, Texts, checked
from runtime.sampling import SamplingParams

_OFF: tuple[object, ...] = (None, "", [], {}, False)


class Parameters(Body):
    """`parameters`. Unless `do_sample` says otherwise, tokens are sampled only if something to sample by is given."""

    refused = dict.fromkeys(("watermark", "decoder_input_details", "grammar", "adapter_id"), _OFF) | {
        "best_of": (None, 1),
        "typical_p": (None, 1),
        "top_n_tokens": (None, 0),
    }

    max_new_tokens: Int | None = None
    min_new_tokens: Int | None = None
    temperature: float | None = None
    top_k: Int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    no_repeat_ngram_size: Int | None = None
    do_sample: bool | None = None
    seed: Int | None = None
    stop: Annotated[list[StopText], Field(fail_fast=True)] | None = None
    return_full_text: bool | None = None
    details: bool | None = None
    truncate: Annotated[int, Field(ge=1)] | None = None  # of the prompt only its last so many tokens

    @property
    def greedy(self) -> bool:
        if self.do_sample is not None:
            return not self.do_sample
        return self.temperature is None and self.top_k is None and self.top_p is None

    def sampling(self, max_tokens: int, logprobs: bool) -> SamplingParams:
        """Raises ApiError 400 with every rule that the values break. Stop strings stay in the text: theirs do."""
        given = {
            "min_tokens": self.min_new_tokens,
            "temperature": 0.0 if self.greedy else self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "repetition_penalty": self.repetition_penalty,
            "frequency_penalty": self.frequency_penalty,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
            "seed": self.seed,
        }
        known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return checked(
            SamplingParams(
                max_tokens=max_tokens,
                stop=tuple(self.stop or ()),
                include_stop_str_in_output=True,
                logprobs=0 if logprobs else None,
                **known,
            )
        )


class GenerateBody(Body):
    """POST /generate, /generate_stream and /. Exactly one of `inputs` and `text`; several texts are Takeoff's way alone."""

    refused = dict.fromkeys(("regex_string", "json_schema"), _OFF)

    inputs: str | None = None
    text: str | Texts | None = None
    parameters: Parameters | None = None
    stream: bool | None = None
    model: str | None = None  # not in either API: chooses among several deployments
    sampling_temperature: float | None = None
    sampling_topp: float | None = None
    sampling_topk: Int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: Int | None = None
    max_new_tokens: Int | None = None
    generate_max_length: Int | None = None  # max_new_tokens in Takeoff's older clients
    min_new_tokens: Int | None = None
    prompt_max_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.inputs is None) == (self.text is None):
            raise PydanticCustomError("unsupported", "exactly one of 'inputs' and 'text' must be given", {"param": "inputs"})
        return self

    @property
    def prompts(self) -> list[str]:
        if self.inputs is not None:
            return [self.inputs]
        return [self.text] if isinstance(self.text, str) else list(self.text or ())

    @property
    def takeoff(self) -> bool:
        """Whether a stream's events are bare text: the body is all Takeoff's. `text` beside `parameters` is a mixture of both."""
        return self.text is not None and self.parameters is None

    @property
    def settings(self) -> Parameters:
        if self.parameters is not None:
            return self.parameters
        return Parameters(
            max_new_tokens=self.generate_max_length if self.max_new_tokens is None else self.max_new_tokens,
            min_new_tokens=self.min_new_tokens,
            temperature=self.sampling_temperature,
            top_k=self.sampling_topk,
            top_p=self.sampling_topp,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            truncate=self.prompt_max_tokens,
        )
