"""Seeded random checkpoints in Hugging Face's format: something to serve where there is nothing to download.

python -m runtime.checkpoint.synthetic --out DIR --family llama3 --size demo --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from runtime import child
from runtime.checkpoint.config import DTYPES, CheckpointError, ModelShape, parse_shape
from runtime.checkpoint.synthetic_tokenizer import BOS_ID, EOS_IDS, SPECIAL_TOKENS, write_tokenizer
from runtime.checkpoint.synthetic_weights import random_tensors

# hidden, intermediate, layers, heads, kv heads, vocabulary, positions
_SIZES = {
    "tiny": (128, 320, 4, 8, 4, 1000, 1024),
    "demo": (512, 1408, 12, 8, 4, 8192, 4096),  # llama: 44 million parameters
    "bench": (1024, 2816, 24, 16, 8, 32000, 4096),  # llama: 0.35 billion
}
_ODD_VOCABULARY = 1027  # divides by no tp degree

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,  # short, so that short prompts reach the scaled part
}
_QWEN = {"rms_norm_eps": 1e-6, "bos_token_id": None, "use_sliding_window": False}
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {}),
    "llama3": ("LlamaForCausalLM", {"rope_theta": 500000.0, "rope_scaling": _LLAMA3_ROPE, "tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", {"sliding_window": 32}),
    "qwen2": ("Qwen2ForCausalLM", _QWEN | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", _QWEN),
    "mixtral": ("MixtralForCausalLM", {"sliding_window": None, "num_local_experts": 8, "num_experts_per_tok": 2}),
    # six experts: four members of an ep axis own unequal numbers of them
    "qwen3_moe": ("Qwen3MoeForCausalLM", _QWEN | {"num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": True}),
}
FAMILIES, SIZES = tuple(_FAMILIES), tuple(_SIZES)


def write_checkpoint(
    out: Path, family: str, size: str = "tiny", seed: int = 0, dtype: str = "float32", shards: int = 1, **overrides: Any
) -> ModelShape:
    """Writes a whole checkpoint (config, weights, tokenizer, chat template) into the directory `out` and returns its shape.

    `overrides` are config.json's own keys: `num_key_value_heads=1`, `tie_word_embeddings=True`, `vocab_size=515`. More than
    one of `shards` writes an index. Raises CheckpointError for a family, size, dtype or configuration that is not possible.
    """
    config = synthetic_config(family, size, dtype, **overrides)
    shape = parse_shape(config)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_tokenizer(out, shape.vocab_size, shape.max_position, adds_bos=shape.bos_token_id is not None)
    _write_json(out / "config.json", config)
    ids = {"bos_token_id": shape.bos_token_id, "eos_token_id": EOS_IDS, "pad_token_id": 0}
    _write_json(out / "generation_config.json", {**ids, "do_sample": False})
    _write_weights(out, dict(random_tensors(shape, len(SPECIAL_TOKENS), seed)), shards)
    return shape


def synthetic_config(family: str, size: str = "tiny", dtype: str = "float32", **overrides: Any) -> dict[str, Any]:
    """The content of config.json for such a checkpoint. Raises CheckpointError for an unknown family, size or dtype."""
    for value, known, what in ((family, FAMILIES, "family"), (size, SIZES, "size"), (dtype, DTYPES, "dtype")):
        if value not in known:
            raise CheckpointError(f"{what} {value} is not known; known are {', '.join(known)}")
    architecture, special = _FAMILIES[family]
    hidden, intermediate, layers, heads, kv_heads, vocabulary, positions = _SIZES[size]
    odd = size == "tiny" and family in ("llama3", "qwen2", "qwen3_moe")
    config = {
        "architectures": [architecture],
        "model_type": "llama" if family == "llama3" else family,
        "hidden_size": hidden,
        # an expert is a quarter of a dense MLP
        "intermediate_size": intermediate // 4 if family == "mixtral" else intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": _ODD_VOCABULARY if odd else vocabulary,
        "max_position_embeddings": positions,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_IDS[0],
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        **special,
    }
    if family in ("qwen3", "qwen3_moe"):
        # as in the published ones, heads times head_dim is not the hidden size
        config["head_dim"] = 2 * hidden // heads
    if family == "qwen3_moe":
        config |= {"moe_intermediate_size": intermediate // 4, "decoder_sparse_step": 1, "mlp_only_layers": []}
    return config | overrides


def _write_weights(out: Path, tensors: Mapping[str, torch.Tensor], shards: int) -> None:
    for old in out.glob("model*.safetensors*"):
        old.unlink()
    names = list(tensors)
    if shards == 1:
        save_file(dict(tensors), out / "model.safetensors", metadata={"format": "pt"})
        return
    files = {f"model-{i + 1:05}-of-{shards:05}.safetensors": names[i::shards] for i in range(shards)}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, out / file, metadata={"format": "pt"})
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    weight_map = {name: file for file, part in files.items() for name in part}
    _write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    child.die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m runtime.checkpoint.synthetic", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=JSON", help="keys of config.json, e.g. num_key_value_heads=1"
    )
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_args()
    try:
        overrides = {key: json.loads(value) for key, _, value in (item.partition("=") for item in given.set)}
        shape = write_checkpoint(given.out, given.family, given.size, given.seed, given.dtype, given.shards, **overrides)
    except ValueError as error:
        parser.error(str(error))
    if not given.quiet:
        print(f"{given.out}: {shape.family}, {shape.parameter_count / 1e6:.1f} million parameters, {shape.dtype}")


if __name__ == "__main__":
    main()
