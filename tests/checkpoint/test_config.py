import json
import subprocess
import sys
from dataclasses import replace

import pytest

from runtime.checkpoint.config import CheckpointError, RopeScaling, parse_shape, read_shape
from runtime.checkpoint.synthetic import FAMILIES, synthetic_config

LLAMA_31_8B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
MIXTRAL_8X7B = {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mixtral",
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "rope_theta": 1e6,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
QWEN3_30B_A3B = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rope_theta": 1e6,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN25_05B = {
    "architectures": ["Qwen2ForCausalLM"],
    "eos_token_id": 151645,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rope_theta": 1e6,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LLAMA_31_8B, 8_030_261_248),
        (MIXTRAL_8X7B, 46_702_792_704),
        (QWEN3_30B_A3B, 30_532_122_624),
        (QWEN25_05B, 494_032_768),
    ],
)
def test_published_models_have_their_published_parameter_counts(config, parameters):
    assert parse_shape(config).parameter_count == parameters


def test_a_mixtures_decode_step_reads_the_chosen_experts_only():
    shape = parse_shape(QWEN3_30B_A3B)
    assert shape.is_moe_layer(0)
    assert shape.layer_parameters(0) - shape.active_layer_parameters(0) == (128 - 8) * 3 * 2048 * 768
    dense = parse_shape(LLAMA_31_8B)
    assert dense.layer_parameters(3) == dense.active_layer_parameters(3)
    assert dense.kv_bytes_per_token_layer(itemsize=2) == 2 * 8 * 128 * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_style_of_transformers_5_reads_like_the_old_one(family, tmp_path):
    from transformers import AutoConfig

    old = synthetic_config(family, dtype="bfloat16")
    (tmp_path / "config.json").write_text(json.dumps(old))
    new = json.loads(AutoConfig.from_pretrained(tmp_path).to_json_string(use_diff=False))
    assert "rope_parameters" in new
    assert "rope_theta" not in new
    assert "torch_dtype" not in new
    read = parse_shape(new)
    if parse_shape(old).rope.kind != "llama3":  # transformers leaves it out where it has no meaning
        read = replace(read, rope=replace(read.rope, original_max_position=parse_shape(old).rope.original_max_position))
    assert read == parse_shape(old)


def test_llama3_rope_is_read_whole():
    assert parse_shape(LLAMA_31_8B).rope == RopeScaling(500000.0, "llama3", 8.0, 1.0, 4.0, 8192)


def test_llama_2_without_kv_heads_has_as_many_as_heads():
    config = {key: value for key, value in LLAMA_31_8B.items() if key not in ("num_key_value_heads", "rope_scaling")}
    shape = parse_shape(config | {"head_dim": None})
    assert (shape.num_kv_heads, shape.head_dim, shape.rope.kind) == (32, 128, "default")


def test_attention_bias_reaches_the_output_projection_except_in_qwen2():
    llama = parse_shape(LLAMA_31_8B | {"attention_bias": True})
    assert llama.attention_bias
    assert llama.attention_output_bias
    qwen2 = parse_shape(QWEN25_05B)
    assert qwen2.attention_bias
    assert not qwen2.attention_output_bias


def test_sliding_windows_by_layer():
    windowed = QWEN25_05B | {"use_sliding_window": True, "num_hidden_layers": 4, "max_window_layers": 3, "sliding_window": 64}
    assert parse_shape(windowed).sliding_windows == (None, None, None, 64)
    kinds = ["sliding_attention", "full_attention"] * 2
    assert parse_shape(windowed | {"layer_types": kinds}).sliding_windows == (64, None, 64, None)
    assert set(parse_shape(QWEN25_05B).sliding_windows) == {None}
    mistral = synthetic_config("mistral", sliding_window=32)
    assert parse_shape(mistral).sliding_windows == (32,) * 4
    assert parse_shape(mistral | {"sliding_window": None}).sliding_windows == (None,) * 4


def test_dense_layers_of_a_mixture():
    config = QWEN3_30B_A3B | {"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [1]}
    shape = parse_shape(config)
    assert [shape.is_moe_layer(i) for i in range(6)] == [False, False, False, True, False, True]
    assert shape.layer_parameters(0) < shape.layer_parameters(3)


def test_end_tokens_of_both_files_count(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(QWEN25_05B))
    assert read_shape(tmp_path).eos_token_ids == (151645,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [151645, 151643]}))
    assert read_shape(tmp_path).eos_token_ids == (151645, 151643)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, ["GPT2LMHeadModel", "LlamaForCausalLM"]),
        ({"architectures": None, "model_type": "phi3"}, ["phi3", "Qwen3ForCausalLM"]),
        ({"quantization_config": {"quant_method": "awq"}}, ["awq", "unquantized"]),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, ["yarn", "llama3"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ["low_freq_factor"]),
        ({"mlp_bias": True}, ["mlp_bias"]),
        ({"hidden_act": "gelu"}, ["gelu", "silu"]),
        ({"dtype": "float8_e4m3fn"}, ["float8_e4m3fn", "bfloat16"]),
        ({"num_key_value_heads": 5}, ["32", "5"]),
        ({"vocab_size": "many"}, ["vocab_size", "many"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
    ],
)
def test_what_is_not_supported_is_refused_by_name(change, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_31_8B | change))
    with pytest.raises(CheckpointError) as refused:
        read_shape(tmp_path)
    assert all(word in str(refused.value) for word in [*words, "config.json"])


def test_a_wrong_path_names_the_checkpoints_near_by(tmp_path):
    for name in ("llama-8b", "qwen"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text(json.dumps(QWEN25_05B))
    with pytest.raises(CheckpointError, match=r"llama-7b is not a directory.*llama-8b.*qwen"):
        read_shape(tmp_path / "models" / "llama-7b")
    with pytest.raises(CheckpointError, match=r"has no config.json.*llama-8b"):
        read_shape(tmp_path / "models")
    (tmp_path / "models" / "qwen" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"qwen/config.json cannot be read as JSON"):
        read_shape(tmp_path / "models" / "qwen")


def test_reading_a_shape_and_a_tokenizer_needs_no_torch():
    code = "import sys, runtime.checkpoint.config, runtime.checkpoint.tokenizer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
