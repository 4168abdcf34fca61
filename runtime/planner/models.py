"""A model as the planner sees it: which parameters a rank holds and reads, what a token's cache takes.

Named models are Hugging Face configs kept as data; a checkpoint directory's config.json is read the same way. Wider than
`runtime.checkpoint.config`: a layout can be planned for models that this runtime cannot serve yet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from runtime.planner.names import PlanError, find, load


class Latent(NamedTuple):
    """Multi-head latent attention (DeepSeek): ranks of the two down-projections, head dimensions by part."""

    q_rank: int
    kv_rank: int
    nope: int
    rope: int
    value: int


@dataclass(frozen=True)
class Model:
    """Sizes are counts of elements; a mixture's `dense_layers` have a plain MLP."""

    name: str
    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    intermediate: int  # of a plain MLP
    tied: bool = False
    gated: bool = True  # gate, up and down; else two matrices
    latent: Latent | None = None
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0  # of the expert that every token visits
    dense_layers: int = 0
    window: int | None = None  # tokens that a windowed layer remembers
    windowed_layers: int = 0
    max_position: int = 1 << 30
    stored_as: str = ""  # the checkpoint's own format; empty: bfloat16
    small: int = 0  # norms, biases, router corrections, positions: parameters of no matrix

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def matrices(self) -> int:
        """Matrices of an MLP."""
        return 3 if self.gated else 2

    def attention(self, tp: int = 1) -> int:
        """Parameters of one layer's attention matrices on one rank. A KV head that tp outnumbers is copied: ceil(n_kv / tp)."""
        if self.latent is None:
            return self.hidden * self.head_dim * (2 * self.heads // tp + 2 * -(-self.kv_heads // tp))
        c, heads = self.latent, self.heads // tp
        query = heads * (c.nope + c.rope)
        down = self.hidden * (c.q_rank + c.kv_rank + c.rope)  # not split: every rank needs the whole latent
        up = (c.q_rank or self.hidden) * query + c.kv_rank * heads * (c.nope + c.value)
        return down + up + heads * c.value * self.hidden

    def mlp(self, tp: int = 1) -> int:
        """Parameters of one plain MLP on one rank."""
        return self.matrices * self.hidden * self.intermediate // tp

    def expert(self, etp: int = 1) -> int:
        """Parameters of one routed expert, or of its share when it is split over `etp` ranks."""
        return self.matrices * self.hidden * self.expert_intermediate // etp

    def shared(self, tp: int = 1) -> int:
        return self.matrices * self.hidden * self.shared_intermediate // tp

    @property
    def router(self) -> int:
        return self.hidden * self.experts

    @property
    def embedding(self) -> int:
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """Parameters of the whole model; a tied embedding counts once."""
        moe = self.moe_layers * (self.router + self.experts * self.expert() + self.shared())
        plain = (self.layers - self.moe_layers) * self.mlp()
        return self.layers * self.attention() + moe + plain + self.embedding * (1 if self.tied else 2) + self.small

    @property
    def active_parameters(self) -> int:
        """Parameters of the matrices that one token's step reads, the LM head included and the embedding not."""
        moe = self.moe_layers * (self.router + self.experts_per_token * self.expert() + self.shared())
        return self.layers * self.attention() + moe + (self.layers - self.moe_layers) * self.mlp() + self.embedding

    def kv_elements(self, tp: int = 1) -> int:
        """Cache elements of one token in one layer on one rank: 2 ceil(n_kv / tp) d, or the latent, which tp cannot split."""
        if self.latent is not None:
            return self.latent.kv_rank + self.latent.rope
        return 2 * -(-self.kv_heads // tp) * self.head_dim

    def remembered(self, context: float) -> float:
        """Tokens whose cache a layer reads at `context` tokens, mean over the layers: a window forgets what lies before it."""
        if self.window is None:
            return context
        windowed = self.windowed_layers / self.layers
        return windowed * min(context, self.window) + (1 - windowed) * context


# a quantised checkpoint's name ends with its format
_PUBLISHED_AS = {"-nvfp4": "nvfp4", "-fp4": "nvfp4", "-fp8": "fp8", "-awq": "int4", "-int4": "int4", "-gptq": "int4"}


def named_models() -> list[str]:
    return list(load("models"))


def public_repository(name: str) -> str:
    """Where a named model's checkpoint is published on Hugging Face, "owner/name"; empty: nowhere."""
    _, host, rest = str(load("models")[name]["source"]).partition("https://huggingface.co/")
    return rest.partition("/blob/")[0] if host else ""


def find_model(name: str) -> Model:
    """A checkpoint directory or a named model. Raises PlanError naming the nearest."""
    path = Path(name)
    if name and (path / "config.json").is_file():
        try:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PlanError(f"{path / 'config.json'} cannot be read: {error}") from None
        if not isinstance(config, dict):
            raise PlanError(f"{path / 'config.json'} is no model's config: it holds no object")
        return read_model(path.resolve().name, config)
    if name.startswith(("/", "./", "../", "~")) or path.exists():
        if path.is_file():
            raise PlanError(f"{name} is a file: a checkpoint is its directory, {path.parent}")
        what = "it has no config.json" if path.is_dir() else "there is no such directory"
        raise PlanError(f"{name} is no checkpoint: {what} (a named model is spelled as llama-3.1-8b)")
    catalogue = load("models")
    entry = find(
        name, {key: value["aliases"] for key, value in catalogue.items()}, "model", "a checkpoint's directory will do too"
    )
    found = read_model(entry, catalogue[entry]["config"])
    stored = next((form for ending, form in _PUBLISHED_AS.items() if name.lower().endswith(ending)), found.stored_as)
    return found if stored == found.stored_as else replace(found, stored_as=stored)


def read_model(name: str, config: Mapping[str, Any]) -> Model:
    """The model that a Hugging Face config.json describes. Raises PlanError naming the key that is missing."""
    config = config.get("text_config") or config
    family = str(config.get("model_type", ""))
    try:
        model = _opt(name, config) if family == "opt" else _decoder(name, family, config)
    except KeyError as error:
        raise PlanError(f"{name}: its config.json has no {error.args[0]}") from None
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise PlanError(f"{name}: its config.json makes no model: {error}") from None
    for size in ("hidden", "layers", "heads", "kv_heads", "head_dim", "vocab", "intermediate"):
        if getattr(model, size) < 1:
            raise PlanError(f"{name}: its config.json says {size} {getattr(model, size)}; it is 1 at least")
    return model


def _decoder(name: str, family: str, config: Mapping[str, Any]) -> Model:
    hidden, layers, heads = (int(config[key]) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or hidden // heads)
    latent = None
    if config.get("kv_lora_rank"):
        parts = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        latent = Latent(int(config.get("q_lora_rank") or 0), *(int(config[key]) for key in parts))
    experts = int(config.get("num_local_experts") or config.get("num_experts") or config.get("n_routed_experts") or 0)
    expert_size = int(config.get("moe_intermediate_size") or config["intermediate_size"]) if experts else 0
    shared = expert_size * int(config.get("n_shared_experts") or (1 if family == "llama4_text" else 0))
    window, windowed = _window(config, family, layers)
    return Model(
        name=name,
        family=family,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=int(config["vocab_size"]),
        intermediate=int(config.get("intermediate_size_mlp") or config["intermediate_size"]),
        tied=bool(config.get("tie_word_embeddings", False)),
        gated=bool(config.get("mlp_gated", True)),
        latent=latent,
        experts=experts,
        experts_per_token=int(config["num_experts_per_tok"]) if experts else 0,
        expert_intermediate=expert_size,
        shared_intermediate=shared,
        dense_layers=_dense_layers(config, layers) if experts else layers,
        window=window,
        windowed_layers=windowed,
        max_position=int(config.get("max_position_embeddings") or 1 << 30),
        stored_as=_stored_as(config),
        small=_small(config, family, hidden, layers, heads, kv_heads, head_dim, latent, experts),
    )


def _small(
    config: Mapping[str, Any],
    family: str,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    latent: Latent | None,
    experts: int,
) -> int:
    """Parameters of norms, biases, attention sinks and router corrections, by family as transformers builds them."""
    q, kv = heads * head_dim, kv_heads * head_dim
    layer = 2 * hidden
    if family in ("qwen3", "qwen3_moe"):
        layer += 2 * head_dim
    if family == "minimax_m2":
        layer += q + kv
    if latent is not None:
        layer += latent.q_rank + latent.kv_rank
    if family == "qwen2":
        layer += q + 2 * kv
    elif config.get("attention_bias") and latent is None:
        layer += q + 2 * kv + hidden
    total = hidden + layers * layer
    if family == "gpt_oss":
        expert_size = int(config["intermediate_size"])
        total += layers * (heads + experts + experts * (2 * expert_size + hidden))
    if family in ("deepseek_v3", "minimax_m2"):
        total += experts * (layers - _dense_layers(config, layers))  # e_score_correction_bias, in the checkpoint's index
    return total


def _dense_layers(config: Mapping[str, Any], layers: int) -> int:
    first, plain = int(config.get("first_k_dense_replace") or 0), len(config.get("mlp_only_layers") or ())
    step = int(config.get("decoder_sparse_step") or config.get("interleave_moe_layer_step") or 1)
    return first + plain + (layers - layers // step)


def _window(config: Mapping[str, Any], family: str, layers: int) -> tuple[int | None, int]:
    """How far a windowed layer looks back, and how many layers are windowed."""
    kinds = config.get("layer_types") or ()
    if config.get("attention_chunk_size"):  # Llama 4: three of four layers; a chunk holds half its length in the mean
        return int(config["attention_chunk_size"]), layers * 3 // 4
    if not config.get("sliding_window") or config.get("use_sliding_window") is False:
        return None, 0
    if family.startswith("qwen") and not config.get("use_sliding_window"):
        return None, 0
    if kinds:
        return int(config["sliding_window"]), sum(kind == "sliding_attention" for kind in kinds)
    return int(config["sliding_window"]), layers // 2 if family == "gpt_oss" else layers


def _stored_as(config: Mapping[str, Any]) -> str:
    given = config.get("quantization_config") or {}
    method = str(given.get("quant_method", "")).lower()
    if not method:
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
        return {"float32": "fp32", "float16": "fp16"}.get(dtype, "")
    if method == "fp8":
        return "fp8-block" if given.get("weight_block_size") else "fp8"
    known = {"mxfp4": "mxfp4", "awq": "int4", "gptq": "int4", "modelopt": "fp8", "nvfp4": "nvfp4", "modelopt_fp4": "nvfp4"}
    return known.get(method, "int8" if method in ("compressed-tensors", "bitsandbytes") else "")


def _opt(name: str, config: Mapping[str, Any]) -> Model:
    """GPT-3's and OPT's decoder: learned positions, biases everywhere, two matrices in the MLP, tied embedding."""
    hidden, layers, heads = (int(config[key]) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    ffn, positions = int(config["ffn_dim"]), int(config["max_position_embeddings"])
    return Model(
        name=name,
        family="opt",
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        vocab=int(config["vocab_size"]),
        intermediate=ffn,
        tied=True,
        gated=False,
        dense_layers=layers,
        max_position=positions,
        small=layers * (4 * hidden + ffn + hidden + 4 * hidden) + 2 * hidden + (positions + 2) * hidden,
    )
