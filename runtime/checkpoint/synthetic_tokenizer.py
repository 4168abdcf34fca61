"""A small byte-level BPE tokenizer for synthetic checkpoints, trained on the sources of Python's standard library."""

from __future__ import annotations

import functools
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from runtime.checkpoint.config import CheckpointError

SPECIAL_TOKENS = ("<|endoftext|>", "<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>")
BOS_ID = 1
EOS_IDS = (2, 4)  # the end of a text, the end of a chat's turn
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)  # every byte has a token, so every text can be encoded

# Qwen's words: transformers gives every Qwen2 checkpoint these, whatever its tokenizer.json says
_WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""

_CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def write_tokenizer(out: Path, vocab_size: int, max_length: int, adds_bos: bool) -> None:
    """Writes tokenizer.json and tokenizer_config.json. `adds_bos`: an encoded text begins with the BOS token, as Llama's does.

    Raises CheckpointError for a vocabulary too small to hold every byte.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise CheckpointError(f"vocab_size {vocab_size} is too small: bytes and special tokens alone are {SMALLEST_VOCABULARY}")
    tokenizer = Tokenizer.from_str(_trained(vocab_size))
    if adds_bos:
        bos = SPECIAL_TOKENS[BOS_ID]
        byte_level = processors.ByteLevel(trim_offsets=False)
        first = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, BOS_ID)])
        tokenizer.post_processor = processors.Sequence([byte_level, first])
    tokenizer.save(str(out / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[BOS_ID],
        "eos_token": SPECIAL_TOKENS[EOS_IDS[0]],
        "pad_token": SPECIAL_TOKENS[0],
        "additional_special_tokens": list(SPECIAL_TOKENS[3:]),
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@functools.cache
def _trained(vocab_size: int) -> str:
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # so much text has enough words for all the merges; more only takes longer
    tokenizer.train_from_iterator(_sources(max_characters=max(200_000, 100 * vocab_size)), trainer)
    missing = vocab_size - tokenizer.get_vocab_size(with_added_tokens=True)
    tokenizer.add_tokens([f"<|unused_{i}|>" for i in range(missing)])
    return tokenizer.to_str()


def _sources(max_characters: int) -> Iterator[str]:
    read = 0
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = file.read_text(encoding="utf-8", errors="ignore")
        yield text
        read += len(text)
        if read >= max_characters:
            return
