"""Hugging Face's `config.json`, read into one `ModelShape` for every family. Torch-free."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

DTYPES = ("float32", "bfloat16", "float16")
ROPE_TYPES = ("default", "linear", "llama3")

_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "MixtralForCausalLM": "mixtral",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}

# What transformers assumes for a key that a config.json leaves out.
_COMMON_DEFAULTS: dict[str, Any] = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
_COMMON_DEFAULTS |= {"attention_bias": False, "rope_theta": 10000.0, "max_position_embeddings": 32768}
_LLAMA_IDS = {"bos_token_id": 1, "eos_token_id": 2}
_QWEN_WINDOW = {"sliding_window": 4096, "max_window_layers": 28}
_MISTRAL = _LLAMA_IDS | {"num_key_value_heads": 8, "max_position_embeddings": 131072}
_MIXTURE = {"rms_norm_eps": 1e-5, "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2}
_QWEN_MIXTURE = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "decoder_sparse_step": 1}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA_IDS | {"max_position_embeddings": 2048},
    "mistral": _MISTRAL | {"sliding_window": 4096},
    "qwen2": _QWEN_WINDOW,
    "qwen3": _QWEN_WINDOW | {"head_dim": 128},
    "mixtral": _MISTRAL | _MIXTURE,
    "qwen3_moe": _QWEN_WINDOW | _QWEN_MIXTURE | {"num_key_value_heads": 4, "norm_topk_prob": False},
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be served: names the file or value, the rule, and what would work."""


@dataclass(frozen=True)
class RopeScaling:
    """Rotary embedding: base frequency and, for Llama 3.1+, the piecewise scaling of `transformers`' rope type llama3."""

    theta: float = 10000.0
    kind: str = "default"  # "default", "linear", "llama3"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@dataclass(frozen=True)
class ModelShape:
    """What the runtime needs to know of a model. Sizes are counts of elements."""

    family: str  # "llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe"
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int
    rms_norm_eps: float
    rope: RopeScaling
    tie_embeddings: bool
    attention_bias: bool  # q, k, v carry a bias (Qwen2)
    qk_norm: bool  # RMS norm over each head of q and k (Qwen3)
    sliding_windows: tuple[int | None, ...]  # by layer; None: full attention
    dtype: str  # of the checkpoint: "float32", "bfloat16", "float16"
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    num_experts: int = 0
    experts_per_token: int = 0
    expert_intermediate_size: int = 0
    renormalize_experts: bool = True  # the chosen experts' weights sum to one
    dense_layers: frozenset[int] = frozenset()  # of a mixture model: layers with a plain MLP
    attention_output_bias: bool = False  # o carries a bias too (Llama and Qwen3 with attention_bias)

    def is_moe_layer(self, layer: int) -> bool:
        return self.num_experts > 0 and layer not in self.dense_layers

    def layer_parameters(self, layer: int) -> int:
        """Parameters that one decoder layer stores, norms included."""
        return self._layer_parameters(layer, self.num_experts)

    def active_layer_parameters(self, layer: int) -> int:
        """Parameters of a layer that one token's decode step reads: of a mixture, the router and the chosen experts."""
        return self._layer_parameters(layer, self.experts_per_token)

    @property
    def parameter_count(self) -> int:
        """Parameters of the whole model; a tied embedding counts once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return embeddings + sum(map(self.layer_parameters, range(self.num_layers))) + self.hidden_size

    def kv_bytes_per_token_layer(self, itemsize: int) -> int:
        """Bytes that one token's keys and values take in one layer's cache, over all kv heads."""
        return 2 * self.num_kv_heads * self.head_dim * itemsize

    def _layer_parameters(self, layer: int, experts: int) -> int:
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = self.hidden_size * (2 * q + 2 * kv)
        attention += (q + 2 * kv) * self.attention_bias + self.hidden_size * self.attention_output_bias
        norms = 2 * self.hidden_size + 2 * self.head_dim * self.qk_norm
        if self.is_moe_layer(layer):
            mlp = self.hidden_size * (self.num_experts + 3 * experts * self.expert_intermediate_size)
        else:
            mlp = 3 * self.hidden_size * self.intermediate_size
        return attention + norms + mlp


def read_shape(directory: Path) -> ModelShape:
    """The shape of the checkpoint in `directory`, from its config.json and, for the end tokens, generation_config.json.

    Raises CheckpointError when there is no such checkpoint (naming near-by ones) or the runtime cannot serve it.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        found = "has no config.json" if path.parent.is_dir() else "is not a directory"
        near = nearby_checkpoints(path.parent)
        hint = f"near by: {', '.join(map(str, near))}" if near else "give a local directory in Hugging Face format"
        raise CheckpointError(f"{path.parent} {found}; {hint}")
    generation = path.with_name("generation_config.json")
    try:
        return parse_shape(read_json(path), read_json(generation) if generation.is_file() else {})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def parse_shape(config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> ModelShape:
    """The shape that a config.json's content describes, in the old style or in transformers 5's.

    Raises CheckpointError naming the value that is missing, contradictory or unsupported.
    """
    family = _family(config)
    given = _COMMON_DEFAULTS | _DEFAULTS[family] | dict(config)
    _refuse_unsupported(given)
    layers, heads, hidden = (_size(given, key) for key in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    kv_heads = _size(given, "num_key_value_heads") if given.get("num_key_value_heads") is not None else heads
    if heads % kv_heads:
        raise CheckpointError(f"num_attention_heads {heads} does not divide by num_key_value_heads {kv_heads}")
    if given.get("head_dim") is None and hidden % heads:
        raise CheckpointError(f"hidden_size {hidden} does not divide by num_attention_heads {heads}, and head_dim is not given")
    head_dim = _size(given, "head_dim") if given.get("head_dim") is not None else hidden // heads
    if head_dim % 2:
        raise CheckpointError(f"head_dim {head_dim} is odd: rotary embedding turns pairs")
    bias = bool(given["attention_bias"]) and family in ("llama", "qwen3", "qwen3_moe")
    experts = _experts(given, family, layers)
    return ModelShape(
        family=family,
        hidden_size=hidden,
        intermediate_size=_size(given, "intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=_size(given, "vocab_size"),
        max_position=_size(given, "max_position_embeddings"),
        rms_norm_eps=float(given["rms_norm_eps"]),
        rope=_rope(given),
        tie_embeddings=bool(given["tie_word_embeddings"]),
        attention_bias=bias or family == "qwen2",
        attention_output_bias=bias,
        qk_norm=family in ("qwen3", "qwen3_moe"),
        sliding_windows=_sliding_windows(given, family, layers),
        dtype=_dtype(given),
        eos_token_ids=_token_ids(given.get("eos_token_id"), (generation or {}).get("eos_token_id")),
        bos_token_id=given.get("bos_token_id"),
        **experts,
    )


def nearby_checkpoints(directory: Path, count: int = 5) -> list[Path]:
    """Directories that hold a config.json: inside `directory` (a Hugging Face cache's snapshots too), else beside it."""
    inside = [p for pattern in ("*/config.json", "snapshots/*/config.json") for p in islice(directory.glob(pattern), 500)]
    beside = islice(directory.absolute().parent.glob("*/config.json"), 500)
    found = sorted({path.parent for path in inside or beside})
    return sorted(found, key=lambda p: -difflib.SequenceMatcher(None, p.name, directory.name).ratio())[:count]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError naming the file when it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def _family(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures") or []
    if architectures:
        family, named = _ARCHITECTURES.get(architectures[0]), f"architecture {architectures[0]}"
    else:
        family, named = config.get("model_type"), f"model_type {config.get('model_type')!r}"
    if family not in _DEFAULTS:
        raise CheckpointError(f"{named} is not supported; supported are {', '.join(_ARCHITECTURES)}")
    return str(family)


def _refuse_unsupported(given: Mapping[str, Any]) -> None:
    quantization = given.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, Mapping) else quantization
        raise CheckpointError(
            f"quantization_config {method} is not supported; use the unquantized checkpoint ({', '.join(DTYPES)})"
        )
    if given.get("mlp_bias"):
        raise CheckpointError("mlp_bias true is not supported; the MLP's gate, up and down carry no bias")
    if given["hidden_act"] != "silu":
        raise CheckpointError(f"hidden_act {given['hidden_act']} is not supported; supported is silu")


def _size(given: Mapping[str, Any], key: str) -> int:
    value = given.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{key} is {'missing' if key not in given else repr(value)}: it is a whole number, 1 or more")
    return value


def _rope(given: Mapping[str, Any]) -> RopeScaling:
    # transformers prefers the old key when a file carries both
    rope = given.get("rope_scaling") or given.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    nested = [key for key, value in rope.items() if isinstance(value, Mapping)]
    if kind not in ROPE_TYPES or nested:
        named = f"rope type by layer ({', '.join(nested)})" if nested else f"rope type {kind!r}"
        raise CheckpointError(f"{named} is not supported; supported are {', '.join(ROPE_TYPES)}, one for all layers")
    partial = rope.get("partial_rotary_factor", given.get("partial_rotary_factor", 1.0))
    if partial not in (None, 1, 1.0):
        raise CheckpointError(f"partial_rotary_factor {partial} is not supported; the whole head rotates (1.0)")
    needed = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}[kind]
    missing = [key for key in needed if key not in rope]
    if missing:
        raise CheckpointError(f"rope type {kind} lacks {', '.join(missing)}")
    original = rope.get("original_max_position_embeddings", given["max_position_embeddings"])
    values = {key: float(rope[key]) for key in needed}
    return RopeScaling(float(rope.get("rope_theta", given["rope_theta"])), kind, **values, original_max_position=int(original))


def _sliding_windows(given: Mapping[str, Any], family: str, layers: int) -> tuple[int | None, ...]:
    window = given.get("sliding_window")
    if family == "llama" or window is None or (family.startswith("qwen") and not given.get("use_sliding_window")):
        return (None,) * layers
    if family in ("mistral", "mixtral", "qwen3_moe"):
        return (_size(given, "sliding_window"),) * layers
    first = given["max_window_layers"]
    kinds = given.get("layer_types") or ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    if len(kinds) != layers or not set(kinds) <= {"sliding_attention", "full_attention"}:
        raise CheckpointError(f"layer_types {kinds} is not sliding_attention or full_attention for each of {layers} layers")
    return tuple(_size(given, "sliding_window") if kind == "sliding_attention" else None for kind in kinds)


def _experts(given: Mapping[str, Any], family: str, layers: int) -> dict[str, Any]:
    if family not in ("mixtral", "qwen3_moe"):
        return {}
    # transformers 5 writes Qwen3-MoE's num_experts under Mixtral's name
    experts = _size({"num_experts": given.get("num_local_experts", given.get("num_experts"))}, "num_experts")
    chosen = _size(given, "num_experts_per_tok")
    if chosen > experts:
        raise CheckpointError(f"num_experts_per_tok {chosen} is more than the model's {experts} experts")
    shared = {"num_experts": experts, "experts_per_token": chosen}
    if family == "mixtral":
        return shared | {"expert_intermediate_size": _size(given, "intermediate_size")}
    step, plain = _size(given, "decoder_sparse_step"), given.get("mlp_only_layers") or []
    return shared | {
        "expert_intermediate_size": _size(given, "moe_intermediate_size"),
        "renormalize_experts": bool(given["norm_topk_prob"]),
        "dense_layers": frozenset(i for i in range(layers) if i in plain or (i + 1) % step),
    }


def _dtype(given: Mapping[str, Any]) -> str:
    # older files say torch_dtype; without either, full precision holds whatever the weights are
    dtype = str(given.get("dtype") or given.get("torch_dtype") or "float32").removeprefix("torch.")
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype {dtype} is not supported; supported are {', '.join(DTYPES)}")
    return dtype


def _token_ids(*values: int | Sequence[int] | None) -> tuple[int, ...]:
    lists = ([value] if isinstance(value, int) else value or [] for value in values)
    return tuple(dict.fromkeys(token for tokens in lists for token in tokens))
