"""Named models: parameters to the last one, bytes of weights and cache, and agreement with what the runtime reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.checkpoint.config import parse_shape
from runtime.planner.memory import precision, rank_weights
from runtime.planner.models import find_model, named_models, public_repository, read_model
from runtime.planner.names import PlanError
from runtime.planner.sharding import Sharding

# counted by transformers 5.23 on the meta device; DeepSeek's, Kimi's and MiniMax's with the routers' correction biases
EXACT = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.3-70b": 70_553_706_496,
    "llama-4-scout": 107_769_861_120,
    "llama-4-maverick": 400_711_848_960,
    "qwen2-0.5b": 494_032_768,
    "qwen2-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-coder-480b-a35b": 480_154_875_392,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b": 7_248_023_552,
    "mistral-nemo-12b": 12_247_782_400,
    "mistral-small-24b": 23_572_403_200,
    "mistral-large-123b": 122_610_069_504,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_404_352 + 14_848,
    "kimi-k2": 1_026_408_209_408 + 23_040,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "minimax-m2": 228_689_748_992 + 15_872,
    "opt-1.3b": 1_315_758_080,
    "gpt-3-175b": 174_604_283_904,
}

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
MIXTURE = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "head_dim": 32}


@pytest.mark.parametrize("name", EXACT)
def test_parameter_counts_are_exact(name: str) -> None:
    assert find_model(name).parameters == EXACT[name]


def test_the_assumed_model_adds_up_to_what_is_published() -> None:
    model = find_model("gpt-1.8t-moe")
    assert model.parameters == pytest.approx(1.8e12, rel=0.01)
    assert (model.experts, model.experts_per_token) == (16, 2)


@pytest.mark.parametrize(
    ("name", "form", "gigabytes"),
    [("llama-2-7b", "fp16", 14), ("llama-2-13b", "fp16", 26), ("opt-1.3b", "fp16", 2.6), ("llama-3-8b", "bf16", 16.06)],
)
def test_weights_are_what_the_articles_say(name: str, form: str, gigabytes: float) -> None:
    """Theirs are rounded; the last one is not."""
    model = find_model(name)
    held = rank_weights(model, Sharding(), precision(model, form, form))
    assert held / 1e9 == pytest.approx(gigabytes, rel=0.045)
    assert held == pytest.approx(model.parameters * 2, rel=0.01)


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("llama-3.1-8b", 131_072),
        ("llama-3.1-70b", 327_680),
        ("llama-3.1-405b", 516_096),
        ("llama-2-13b", 819_200),  # an article's rule of thumb says 1 MB
        ("mixtral-8x7b", 131_072),
        ("deepseek-v3", 70_272),
    ],
)
def test_cache_of_a_token(name: str, bytes_per_token: int) -> None:
    model = find_model(name)
    assert model.kv_elements() * model.layers * 2 == bytes_per_token


def test_tp_copies_kv_heads_that_it_outnumbers_and_cannot_split_a_latent() -> None:
    assert find_model("llama-3.1-70b").kv_elements(16) == find_model("llama-3.1-70b").kv_elements(8)
    assert find_model("deepseek-v3").kv_elements(8) == find_model("deepseek-v3").kv_elements(1)


@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        LLAMA | {"tie_word_embeddings": True, "head_dim": 64},
        LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
        LLAMA | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 32},
        LLAMA
        | {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2},
        LLAMA | MIXTURE | {"architectures": ["Qwen3MoeForCausalLM"]},
        LLAMA | MIXTURE | {"architectures": ["Qwen3MoeForCausalLM"], "decoder_sparse_step": 2},
        LLAMA | MIXTURE | {"architectures": ["Qwen3MoeForCausalLM"], "mlp_only_layers": [0, 3]},
    ],
)
def test_planner_and_runtime_read_the_same_model(config: dict[str, object]) -> None:
    ours, theirs = read_model("test", config), parse_shape(config)
    assert ours.parameters == theirs.parameter_count
    assert ours.kv_elements() * 2 == theirs.kv_bytes_per_token_layer(2)


def test_a_checkpoint_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert find_model(str(tmp_path)).layers == 6
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"torch_dtype": "float32"}))
    assert find_model(str(tmp_path)).stored_as == "fp32"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(PlanError, match="no hidden_size"):
        find_model(str(tmp_path))


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("meta-llama/Meta-Llama-3.1-70B", "llama-3.1-70b"),
        ("Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b"),
        ("DeepSeek-R1-0528", "deepseek-v3"),
        ("deepseek-r1", "deepseek-v3"),
        ("Qwen/Qwen3-235B-A22B", "qwen3-235b-a22b"),
        ("llama2-13b", "llama-2-13b"),
        ("llama 3.1 70b", "llama-3.1-70b"),
        ("Llama_3.1_8B", "llama-3.1-8b"),
        ("nvidia/Llama-3.1-8B-Instruct-NVFP4", "llama-3.1-8b"),
        ("Qwen3-32B-AWQ", "qwen3-32b"),
        ("Qwen2.5-7B-Instruct-GPTQ-Int4", "qwen2-7b"),
    ],
)
def test_models_are_found_under_the_names_people_type(typed: str, found: str) -> None:
    assert find_model(typed).name == found


@pytest.mark.parametrize(
    ("typed", "form"),
    [
        ("llama-3.1-8b", ""),
        ("llama-3.1-8b-fp8", "fp8"),
        ("nvidia/DeepSeek-V3-FP4", "nvfp4"),
        ("Qwen3-32B-AWQ", "int4"),
        ("Qwen2.5-7B-Instruct-GPTQ-Int4", "int4"),
        ("Llama-3.1-8B-Instruct-NVFP4", "nvfp4"),
        ("deepseek-v3", "fp8-block"),
    ],
)
def test_a_quantised_checkpoints_name_tells_its_format(typed: str, form: str) -> None:
    assert find_model(typed).stored_as == form


@pytest.mark.parametrize(
    ("name", "repository"),
    [("llama-3.1-70b", "meta-llama/Llama-3.1-70B"), ("deepseek-r1", "deepseek-ai/DeepSeek-V3"), ("gpt-3-175b", "")],
)
def test_where_a_model_is_published(name: str, repository: str) -> None:
    assert public_repository(find_model(name).name) == repository


def test_an_unknown_model_is_answered_with_near_ones() -> None:
    with pytest.raises(PlanError, match=r"'xyz' is not known; known are .*\(a checkpoint's directory will do too\)"):
        find_model("xyz")
    with pytest.raises(PlanError, match=r"'lama-3.1-70b' is not known; near by: .*llama-3.1-70b"):
        find_model("lama-3.1-70b")
    assert all(find_model(name).name == name for name in named_models())
