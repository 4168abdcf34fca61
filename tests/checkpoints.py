"""Synthetic checkpoints for tests, each written once a session, and transformers as the oracle of what they generate."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

MakeCheckpoint = Callable[..., Path]
PROMPTS = ("def main():", "Hello world", "The quick brown fox jumps over the lazy dog.", "import os\nimport sys\n")


class Continuation(NamedTuple):
    """Greedy token ids, and by how much each one's logit led the second."""

    tokens: list[int]
    margins: list[float]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """`make_checkpoint(family, size=..., seed=..., dtype=..., shards=..., **config_overrides)` -> a directory not to write to."""
    from runtime.checkpoint.synthetic import write_checkpoint

    made: dict[str, Path] = {}

    def make(family: str, **options: Any) -> Path:
        key = repr((family, sorted(options.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(f"{family}-")
            write_checkpoint(made[key], family, **options)
        return made[key]

    return make


@functools.cache
def oracle_model(path: Path) -> tuple[Any, dict[str, Any]]:
    """transformers' model of a checkpoint in the checkpoint's dtype, and its report of missing and unexpected keys."""
    import torch
    from transformers import AutoModelForCausalLM

    # on so small a model a second thread mostly waits for the first
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(path, dtype="auto", output_loading_info=True)


def oracle_greedy(path: Path, prompt: Sequence[int], new_tokens: int) -> Continuation:
    """What transformers' greedy decoding continues the token ids `prompt` with; end tokens do not end it."""
    import torch

    model, _ = oracle_model(path)
    ids = torch.tensor([list(prompt)])
    limits = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), return_dict_in_generate=True, output_logits=True, **limits)
    best = torch.stack(out.logits)[:, 0].float().topk(2).values
    return Continuation(out.sequences[0, len(prompt) :].tolist(), (best[:, 0] - best[:, 1]).tolist())
