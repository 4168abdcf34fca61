"""`shardscope generate`: prompts in, one documented object out. No daemon needed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from runtime.llm import LLM
from runtime.sampling import SamplingParams
from runtime.spec import DeploymentSpec

Prompt = str | dict[str, Any]


def prompts_of(texts: Sequence[str], file: Path | None) -> list[Prompt]:
    """Those given, then the file's: JSON lines of {"prompt": TEXT} or {"prompt_token_ids": [...]}. Raises ValueError."""
    prompts: list[Prompt] = list(texts)
    if file is not None:
        try:
            lines = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: {error}") from error
        prompts += [_prompt(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise ValueError("nothing to generate from: give --prompt or --prompts-file")
    return prompts


def _prompt(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON: {error}") from None
    if isinstance(value, dict) and isinstance(value.get("prompt"), str):
        return {"prompt": value["prompt"]}
    ids = value.get("prompt_token_ids") if isinstance(value, dict) else None
    if isinstance(ids, list) and ids and all(type(token) is int for token in ids):
        return {"prompt_token_ids": ids}
    raise ValueError(f'{where}: a line is {{"prompt": TEXT}} or {{"prompt_token_ids": [INTEGERS]}}')


def run(spec: DeploymentSpec, prompts: Sequence[Prompt], sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The object that `--json` prints. Raises ValueError for what cannot be, RuntimeError when ranks failed."""
    params = msgspec.convert(dict(sampling), SamplingParams)
    if problems := params.problems():
        raise ValueError("; ".join(problems))
    with LLM(**spec.model_dump(exclude_unset=True)) as llm:
        began = time.perf_counter()
        answers = llm.generate(prompts, params)
        seconds = time.perf_counter() - began
        load_s = llm.load_s
    outputs: list[dict[str, Any]] = [
        {
            "prompt": answer.prompt,
            "prompt_token_ids": answer.prompt_token_ids,
            "token_ids": output.token_ids,
            "text": output.text,
            "finish_reason": output.finish_reason,
        }
        | ({"logprobs": [_logprobs(each) for each in output.logprobs]} if output.logprobs is not None else {})
        for answer in answers
        for output in answer.outputs
    ]
    generated = sum(len(output["token_ids"]) for output in outputs)
    firsts = [answer.metrics.first_token_time for answer in answers if answer.metrics.first_token_time is not None]
    return {
        "model": str(spec.model),
        "layout": spec.layout.asdict(),
        "outputs": outputs,
        "timing": {
            "load_s": load_s,
            "generate_s": seconds,
            "first_token_s": min(firsts, default=None),
            "prompt_tokens": sum(len(answer.prompt_token_ids) for answer in answers),
            "output_tokens": generated,
            "output_tokens_per_s": generated / seconds,
        },
    }


def as_text(result: Mapping[str, Any]) -> str:
    """The texts, an empty line between two; token ids where the checkpoint has no tokenizer."""
    return "\n\n".join(output["text"] or " ".join(map(str, output["token_ids"])) for output in result["outputs"])


def _logprobs(each: Any) -> dict[str, Any]:
    return {"logprob": each.logprob, "rank": each.rank, "top": [list(pair) for pair in each.top]}
