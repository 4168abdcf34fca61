"""One decoder for every family: the layers of a pipeline stage, with the embedding before or the head behind.

What differs between families (biases, norms of queries and keys, windows, experts) is in the layers; parallelism is, too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from runtime.checkpoint.config import ModelShape
from runtime.checkpoint.weights import Checkpoint
from runtime.model import native
from runtime.model.attention import Attention, Rotary, kv_heads_of
from runtime.model.batch import Batch, Paged
from runtime.model.cache import CompiledCache, GatheredCache, KVCache, Rope
from runtime.model.experts import Experts
from runtime.model.flash import FlashCache, usable
from runtime.model.linear import Embedding, Head, Linear, Loader
from runtime.model.row_kernels import rms_norm, silu_and_mul
from runtime.parallel.mesh import Mesh


class Norm:
    __slots__ = ("_eps", "_weight")

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self._weight, self._eps = weight, eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self._weight, self._eps)


class MLP:
    """Gated MLP: gate and up by column, down by row."""

    def __init__(self, load: Loader, shape: ModelShape, layer: int) -> None:
        prefix = f"model.layers.{layer}.mlp"
        part = load.share(shape.intermediate_size)
        self._tp = load.tp
        self._gate_up: Linear = load.column_parallel([f"{prefix}.gate_proj", f"{prefix}.up_proj"], [part, part])
        self._down: Linear = load.row_parallel(f"{prefix}.down_proj", part)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._tp.all_reduce(self._down(silu_and_mul(self._gate_up(x))))


class Layer:
    def __init__(self, load: Loader, shape: ModelShape, layer: int, mesh: Mesh) -> None:
        name = f"model.layers.{layer}"
        self.attention = Attention(load, shape, layer)
        self.mlp: MLP | Experts = (
            Experts(load, shape, layer, mesh.ep, mesh.experts) if shape.is_moe_layer(layer) else MLP(load, shape, layer)
        )
        self._before = Norm(load.full(f"{name}.input_layernorm.weight"), shape.rms_norm_eps)
        self._between = Norm(load.full(f"{name}.post_attention_layernorm.weight"), shape.rms_norm_eps)

    def __call__(self, x: torch.Tensor, batch: Batch, rope: Rope, cache: KVCache) -> torch.Tensor:
        if x.shape[0]:
            x = x + self.attention(self._before(x), batch, rope, cache)
        elif isinstance(self.mlp, MLP):
            return x
        return x.add_(self.mlp(self._between(x)))


def cache_class(device: torch.device, dtype: torch.dtype, block_size: int) -> type[FlashCache | CompiledCache | GatheredCache]:
    """The quickest that this device can have."""
    if usable(device, dtype, block_size):
        return FlashCache
    return CompiledCache if device.type == "cpu" and native.available() else GatheredCache


class Stage:
    """The part of the model that one rank computes."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        shape: ModelShape,
        mesh: Mesh,
        dtype: torch.dtype,
        device: torch.device,
        max_positions: int,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> None:
        load = Loader(checkpoint, mesh.tp, dtype, device, on_bytes)
        self.shape, self.dtype, self.device = shape, dtype, device
        self.kv_heads = len(range(*kv_heads_of(shape, mesh.tp).indices(shape.num_kv_heads)))
        self._rotary = Rotary(shape.rope, shape.head_dim, max_positions, dtype, device)
        self._embedding = Embedding(load, "model.embed_tokens.weight", shape.vocab_size) if mesh.first_stage else None
        self.layers: list[Layer] = []
        for layer in mesh.layers:
            self.layers.append(Layer(load, shape, layer, mesh))
            checkpoint.release()
        self.head: Head | None = None
        if mesh.last_stage:
            self._norm = Norm(load.full("model.norm.weight"), shape.rms_norm_eps)
            self.head = Head(load, "model.embed_tokens.weight" if shape.tie_embeddings else "lm_head.weight", shape.vocab_size)
        self.caches: list[KVCache] = []
        self.paged = Paged.NONE

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token's keys and values take on this rank."""
        return 2 * self.kv_heads * self.shape.head_dim * self.dtype.itemsize * len(self.layers)

    @property
    def experts(self) -> list[Experts]:
        return [layer.mlp for layer in self.layers if isinstance(layer.mlp, Experts)]

    def allocate(self, blocks: int, block_size: int) -> None:
        """Give every layer a cache of `blocks` blocks of `block_size` tokens."""
        make = cache_class(self.device, self.dtype, block_size)
        self.paged = make.paged
        size = (self.kv_heads, blocks, block_size, self.shape.head_dim, self.dtype, self.device)
        self.caches = [make(*size) for _ in self.layers]

    def embed(self, batch: Batch) -> torch.Tensor:
        """[tokens] -> [tokens, hidden]; on the first stage."""
        assert self._embedding is not None
        return self._embedding(batch.tokens)

    def forward(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        """x [tokens, hidden] through this stage's layers."""
        rope = self._rotary.at(batch.positions)
        for layer, cache in zip(self.layers, self.caches, strict=True):
            x = layer(x, batch, rope, cache)
        return x

    def logits(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The wanted tokens' logits, this rank's part of the vocabulary: float32 [wanted, vocab / tp]; on the last stage."""
        assert self.head is not None
        return self.head(self._norm(x.index_select(0, batch.wanted)))
