import json

import pytest
import torch
from checkpoints import PROMPTS, oracle_greedy, oracle_model
from safetensors.torch import load_file

from runtime.checkpoint.config import CheckpointError, parse_shape, read_shape
from runtime.checkpoint.synthetic import FAMILIES, synthetic_config, write_checkpoint
from runtime.checkpoint.synthetic_tokenizer import SPECIAL_TOKENS
from runtime.checkpoint.tokenizer import Tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_it_and_greedy_decoding_is_varied_and_decided(family, make_checkpoint):
    path = make_checkpoint(family)
    model, report = oracle_model(path)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert sum(p.numel() for p in model.parameters()) == read_shape(path).parameter_count
    tokenizer = Tokenizer.from_directory(path)
    for prompt in PROMPTS:
        tokens, margins = oracle_greedy(path, tokenizer.encode(prompt), 64)
        print(f"{family}: {len(set(tokens))} distinct of 64, margin at least {min(margins):.3f}")
        assert len(set(tokens)) > 24
        assert min(margins) > 1e-3  # float32 noise is a tenth of that
        assert min(tokens) >= len(SPECIAL_TOKENS)


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("llama", {"num_key_value_heads": 1, "num_hidden_layers": 2}),
        ("llama", {"attention_bias": True, "tie_word_embeddings": True, "num_hidden_layers": 2}),
        ("qwen3", {"tie_word_embeddings": True, "attention_bias": True, "num_hidden_layers": 2}),
        ("qwen3_moe", {"mlp_only_layers": [1], "norm_topk_prob": False, "num_hidden_layers": 3}),
    ],
)
def test_variants_load_too(family, overrides, make_checkpoint):
    path = make_checkpoint(family, **overrides)
    model, report = oracle_model(path)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert sum(p.numel() for p in model.parameters()) == read_shape(path).parameter_count
    tokens, _ = oracle_greedy(path, range(10, 20), 32)
    assert len(set(tokens)) > 8


def test_the_seed_decides_the_weights(make_checkpoint, tmp_path):
    write_checkpoint(tmp_path, "qwen2")
    assert (tmp_path / "model.safetensors").read_bytes() == (make_checkpoint("qwen2") / "model.safetensors").read_bytes()
    write_checkpoint(tmp_path, "qwen2", seed=1, shards=2)
    assert not (tmp_path / "model.safetensors").exists()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    other = load_file(tmp_path / index["weight_map"]["model.norm.weight"])["model.norm.weight"]
    assert not torch.equal(other, load_file(make_checkpoint("qwen2") / "model.safetensors")["model.norm.weight"])


def test_sizes_meant_for_people(make_checkpoint):
    assert 30e6 < parse_shape(synthetic_config("llama", "demo")).parameter_count < 60e6
    vocabularies = {family: synthetic_config(family)["vocab_size"] for family in FAMILIES}
    assert any(size % 4 for size in vocabularies.values())
    assert read_shape(make_checkpoint("qwen3_moe")).num_experts % 4
    # heads x head_dim of Qwen3 is not the hidden size
    shape = read_shape(make_checkpoint("qwen3"))
    assert shape.num_heads * shape.head_dim != shape.hidden_size


def test_what_cannot_be_made_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="family gpt2 is not known; known are llama"):
        write_checkpoint(tmp_path, "gpt2")
    with pytest.raises(CheckpointError, match="vocab_size 100 is too small"):
        write_checkpoint(tmp_path, "llama", vocab_size=100)
