"""The command line's flags for the fields of a deployment and of sampling: one table each, for every command that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

Options = list[tuple[str, type, str]]

# Fields of runtime.spec.DeploymentSpec; what is not given keeps its default there.
SPEC: Options = [
    ("tp", int, "tensor parallel degree"),
    ("pp", int, "pipeline stages"),
    ("ep", int, "expert parallel degree"),
    ("dp", int, "replicas"),
    ("device", str, "auto, cuda or cpu"),
    ("dtype", str, "auto (the checkpoint's), float32, bfloat16 or float16"),
    ("max_model_len", int, "tokens of prompt and output"),
    ("max_num_seqs", int, "sequences in one step"),
    ("max_num_batched_tokens", int, "tokens in one step"),
    ("gpu_memory_utilization", float, "share of a GPU's memory that a rank may fill"),
    ("kv_cache_bytes", int, "bytes of KV cache per rank"),
    ("block_size", int, "tokens in a KV block"),
    ("enable_prefix_caching", bool, "reuse the KV of equal beginnings"),
    ("micro_batches", int, "in flight at once; as many as stages"),
    ("oversubscribe", bool, "allow more ranks than GPUs; shown as emulated"),
    ("transport", str, "auto, shm, gloo or nccl"),
    ("threads", int, "per rank on CPU"),
    ("enforce_eager", bool, "no CUDA graphs"),
    ("stall_timeout_s", float, "seconds without progress after which a rank is treated as dead"),
    ("telemetry", bool, "ranks tell what they do"),
]
# Those that can change while a deployment serves: its engine keeps the telemetry it was born with.
LIVE: Options = [option for option in SPEC if option[0] != "telemetry"]
# Fields of runtime.sampling.SamplingParams.
SAMPLING: Options = [
    ("n", int, "sequences for each prompt"),
    ("max_tokens", int, "at most so many new tokens"),
    ("min_tokens", int, "at least so many before an end"),
    ("temperature", float, "0 is greedy"),
    ("top_k", int, "choose among the k best"),
    ("top_p", float, "choose among the best that make up this probability"),
    ("min_p", float, "choose among those at least this times as likely as the best"),
    ("repetition_penalty", float, "over prompt and output"),
    ("presence_penalty", float, "over the output"),
    ("frequency_penalty", float, "over the output, times the count"),
    ("no_repeat_ngram_size", int, "no n-gram twice"),
    ("seed", int, "same seed, same text"),
    ("stop", list[str], "a string that ends the text; may repeat"),
    ("stop_token_ids", list[int], "a token id that ends the text; may repeat"),
    ("include_stop_str_in_output", bool, "show the stop string"),
    ("ignore_eos", bool, "go on after the end-of-sequence token"),
    ("logprobs", int, "so many of the best at each token"),
    ("skip_special_tokens", bool, "do not show them"),
]


def takes(parameter: str, options: Options) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for each option; those that the user gave arrive as one dict, in `parameter`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        others = [each for name, each in signature.parameters.items() if name != parameter]
        flags = [_flag(name, kind, text) for name, kind, text in options]

        def wrapper(**given: Any) -> None:
            values = {name: given.pop(name) for name, _, _ in options}
            command(**given, **{parameter: {name: value for name, value in values.items() if value not in (None, [])}})

        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        wrapper.__signature__ = signature.replace(parameters=[*others, *flags])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {each.name: each.annotation for each in (*others, *flags)}
        return wrapper

    return decorate


def _flag(name: str, kind: Any, text: str) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    option = typer.Option(f"{flag}/--no-{flag[2:]}" if kind is bool else flag, help=text)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])
