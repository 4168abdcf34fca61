"""Random weights under which greedy decoding is a fair test of a runtime.

Plain small random weights make ties and repeat one token. Here attention is sharp, every layer moves the residual stream and
the head is large: the next token depends on the whole context, its logit leads clearly, and special tokens never win.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from runtime.checkpoint.config import ModelShape

_ATTENTION = 1.5  # of q and of k: a step looks at a few tokens; their mean would soon be the same at every position
_VALUE = 1.0
_MLP = 1.2
_ROUTER = 3.0  # the last chosen expert is well ahead of the first one that is not
_LOGITS = 30.0  # standard deviation: greedy leads by a few, and sampling at temperature 1 still has a choice
_SPECIAL_ROW = 0.05  # of a special token's row in the head, against any other row


class _Draw(NamedTuple):
    """A normal distribution over a tensor of this size."""

    size: tuple[int, ...]
    std: float
    mean: float = 0.0


def random_tensors(shape: ModelShape, special_tokens: int, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a model by its Hugging Face name, in the shape's dtype; the same for the same seed.

    The first `special_tokens` ids are never the greedy choice.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, draw in _draws(shape):
        tensor = torch.randn(*draw.size, generator=generator).mul_(draw.std).add_(draw.mean)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensor[:special_tokens] *= _SPECIAL_ROW
        elif name == "model.norm.weight":
            # A tied head would choose the last token again, whose row is most like itself: signs at random undo that
            tensor *= torch.randint(0, 2, draw.size, generator=generator) * 2 - 1
        yield name, tensor.to(getattr(torch, shape.dtype))


def _draws(shape: ModelShape) -> Iterator[tuple[str, _Draw]]:
    rows = (shape.vocab_size, shape.hidden_size)
    yield "model.embed_tokens.weight", _Draw(rows, 1.0)
    for layer in range(shape.num_layers):
        mlp = _experts(shape) if shape.is_moe_layer(layer) else _mlp("mlp.{}_proj", shape.hidden_size, shape.intermediate_size)
        for name, draw in {**_attention(shape), **mlp}.items():
            yield f"model.layers.{layer}.{name}", draw
    scale = _LOGITS * shape.hidden_size**-0.5
    yield "model.norm.weight", _Draw((shape.hidden_size,), 0.2 * scale, scale)
    if not shape.tie_embeddings:
        yield "lm_head.weight", _Draw(rows, 1.0)


def _attention(shape: ModelShape) -> dict[str, _Draw]:
    hidden, q, kv = shape.hidden_size, shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    norm, head_norm = _Draw((hidden,), 0.2, 1.0), _Draw((shape.head_dim,), 0.3, _ATTENTION)
    draws = {"input_layernorm.weight": norm, "post_attention_layernorm.weight": norm}
    for name, size, gain in (("q", q, _ATTENTION), ("k", kv, _ATTENTION), ("v", kv, _VALUE)):
        draws[f"self_attn.{name}_proj.weight"] = _linear(size, hidden, gain)
        if shape.attention_bias:
            draws[f"self_attn.{name}_proj.bias"] = _Draw((size,), 0.3)
    draws["self_attn.o_proj.weight"] = _linear(hidden, q, _VALUE)
    if shape.attention_output_bias:
        draws["self_attn.o_proj.bias"] = _Draw((hidden,), 0.1)
    if shape.qk_norm:
        draws |= {"self_attn.q_norm.weight": head_norm, "self_attn.k_norm.weight": head_norm}
    return draws


def _experts(shape: ModelShape) -> dict[str, _Draw]:
    block = "block_sparse_moe" if shape.family == "mixtral" else "mlp"
    draws = {f"{block}.gate.weight": _linear(shape.num_experts, shape.hidden_size, _ROUTER)}
    for expert in range(shape.num_experts):
        expert_name = f"{block}.experts.{expert}." + ("{}" if shape.family == "mixtral" else "{}_proj")
        draws |= _mlp(expert_name, shape.hidden_size, shape.expert_intermediate_size, mixtral=shape.family == "mixtral")
    return draws


def _mlp(name: str, hidden: int, size: int, mixtral: bool = False) -> dict[str, _Draw]:
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate", "up", "down")
    return {
        f"{name.format(gate)}.weight": _linear(size, hidden, _MLP),
        f"{name.format(up)}.weight": _linear(size, hidden, _MLP),
        f"{name.format(down)}.weight": _linear(hidden, size, _MLP),
    }


def _linear(rows: int, columns: int, gain: float) -> _Draw:
    """Maps normal values of variance 1 to such of variance gain squared."""
    return _Draw((rows, columns), gain * columns**-0.5)
