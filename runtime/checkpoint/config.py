"""Hugging Face's `config.json`, read into one `ModelShape` for every family. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass


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

    def is_moe_layer(self, layer: int) -> bool:
        return self.num_experts > 0 and layer not in self.dense_layers
