"""Matrix products, packed once for the device, and their tensor-parallel forms.

Column-parallel: the outputs are divided, no communication. Row-parallel: the inputs are divided, one all-reduce.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from runtime.checkpoint.weights import Checkpoint
from runtime.model import product_kernel
from runtime.parallel.communicator import Communicator

PACK_ROWS = 64  # the batch that oneDNN packs for: its layout serves 1 to 1,024 rows equally well


class Linear:
    """y = x W^T + b. On CPU in bfloat16 the weight is packed once for the product, and the plain copy dropped.

    weight [out, in] and bias [out] or None.
    """

    __slots__ = ("multiply",)

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.multiply: Callable[[torch.Tensor], torch.Tensor]
        if product_kernel.takes(weight):
            self.multiply = product_kernel.Panels(weight, bias)
        elif _for_onednn(weight):
            self.multiply = partial(_onednn, torch.ops.mkldnn._reorder_linear_weight(weight, PACK_ROWS), bias)
        else:
            self.multiply = partial(F.linear, weight=weight, bias=bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, in] -> [tokens, out]."""
        return self.multiply(x)


def grouped(linears: Sequence[Linear], x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """The next counts[i] > 0 rows of x [rows, in] through linears[i], which are of one size -> [rows, out]."""
    panels = [each.multiply for each in linears if isinstance(each.multiply, product_kernel.Panels)]
    if panels and len(panels) == len(linears):
        return product_kernel.multiply(panels, x, counts)
    return torch.cat([linear(rows) for linear, rows in zip(linears, x.split(list(counts)), strict=True)])


def _onednn(packed: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")  # type: ignore[no-any-return]


def packs(weight: torch.Tensor) -> bool:
    """Whether a `Linear` keeps it in a layout of its own."""
    return product_kernel.takes(weight) or _for_onednn(weight)


def _for_onednn(weight: torch.Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and weight.numel() > 0
    )


class Loader:
    """Reads a rank's shards onto its device in its dtype. `on_bytes` hears of every tensor's size as it is read."""

    def __init__(
        self, checkpoint: Checkpoint, tp: Communicator, dtype: torch.dtype, device: torch.device, on_bytes: Callable[[int], None]
    ) -> None:
        self.checkpoint, self.tp, self.dtype, self.device = checkpoint, tp, dtype, device
        self._on_bytes = on_bytes

    def place(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in the rank's dtype on its device: never a view of the mapped file."""
        return self._read(tensor).to(device=self.device, dtype=self.dtype, copy=True)

    def weight(self, *parts: torch.Tensor) -> torch.Tensor:
        """Parts of one matrix, row by row, for a `Linear`: it copies what it packs, so that a view of the file will do."""
        if len(parts) > 1:
            return torch.cat([self._read(part) for part in parts]).to(device=self.device, dtype=self.dtype)
        (part,) = parts
        as_it_is = self.device.type == "cpu" and part.dtype == self.dtype and packs(part)
        return self._read(part) if as_it_is else self.place(part)

    def _read(self, tensor: torch.Tensor) -> torch.Tensor:
        self._on_bytes(tensor.numel() * tensor.element_size())
        return tensor

    def share(self, size: int) -> slice:
        """This rank's equal part of a dimension of `size`, which divides."""
        part = size // self.tp.size
        return slice(self.tp.index * part, (self.tp.index + 1) * part)

    def full(self, name: str) -> torch.Tensor:
        return self.place(self.checkpoint.tensor(name))

    def rows(self, name: str, part: slice) -> torch.Tensor:
        return self.place(self.checkpoint.rows(name, part.start, part.stop))

    def column_parallel(self, names: list[str], parts: list[slice]) -> Linear:
        """Several matrices that share an input, merged into one: rows `parts[i]` of `names[i]` (without ".weight")."""
        rows = self.checkpoint.rows
        weight = self.weight(*(rows(f"{name}.weight", part.start, part.stop) for name, part in zip(names, parts, strict=True)))
        bias = None
        if self.checkpoint.has(f"{names[0]}.bias"):
            bias = torch.cat([self.rows(f"{name}.bias", part) for name, part in zip(names, parts, strict=True)])
        return Linear(weight, bias)

    def row_parallel(self, name: str, part: slice) -> Linear:
        """Columns `part` of a matrix; the caller all-reduces. A bias is added by the first rank alone."""
        weight = self.weight(self.checkpoint.columns(f"{name}.weight", part.start, part.stop))
        bias = None
        if self.checkpoint.has(f"{name}.bias") and self.tp.index == 0:
            bias = self.full(f"{name}.bias")
        return Linear(weight, bias)


class VocabParallel:
    """Rows of the vocabulary divided over tp, padded so that every rank has as many: the embedding and the LM head."""

    def __init__(self, load: Loader, vocab_size: int) -> None:
        self._tp = load.tp
        self.vocab_size = vocab_size
        self.per_rank = -(-vocab_size // load.tp.size)
        self.start = min(load.tp.index * self.per_rank, vocab_size)
        self.stop = min(self.start + self.per_rank, vocab_size)

    def rows(self, load: Loader, name: str) -> torch.Tensor:
        """[per_rank, hidden]; rows beyond the vocabulary are zero."""
        weight = load.rows(name, slice(self.start, self.stop))
        missing = self.per_rank - weight.shape[0]
        return F.pad(weight, (0, 0, 0, missing)) if missing else weight


class Embedding(VocabParallel):
    def __init__(self, load: Loader, name: str, vocab_size: int) -> None:
        super().__init__(load, vocab_size)
        self.weight = self.rows(load, name)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens int64 [n] -> [n, hidden]. A rank contributes zero for a token that is not its own."""
        if self._tp.size == 1:
            return F.embedding(tokens, self.weight)
        local = tokens - self.start
        mine = (local >= 0) & (local < self.stop - self.start)
        out = F.embedding(local.clamp_(0, self.per_rank - 1), self.weight)
        out.masked_fill_(~mine.unsqueeze(1), 0)
        return self._tp.all_reduce(out)


class Head(VocabParallel):
    """The LM head: hidden states to this rank's part of the logits."""

    def __init__(self, load: Loader, name: str, vocab_size: int) -> None:
        super().__init__(load, vocab_size)
        self.linear = Linear(self.rows(load, name))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, hidden] -> float32 [n, per_rank]; minus infinity beyond the vocabulary."""
        logits = self.linear(x).float()
        valid = self.stop - self.start
        if valid < self.per_rank:
            logits[:, valid:] = -torch.inf
        return logits

    def gather(self, logits: torch.Tensor) -> torch.Tensor:
        """Every rank's part -> float32 [n, vocab]."""
        if self._tp.size == 1:
            return logits
        parts = self._tp.all_gather(logits)
        return parts.transpose(0, 1).reshape(logits.shape[0], -1)[:, : self.vocab_size]
