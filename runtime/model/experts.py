"""A mixture-of-experts layer: experts divided over ep, each expert divided over tp.

Tokens travel to their experts and back through a dispatcher; without expert parallelism they stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from runtime.checkpoint.config import ModelShape
from runtime.layout import expert_owners
from runtime.model.linear import Linear, Loader
from runtime.model.row_kernels import silu_and_mul
from runtime.parallel.communicator import Communicator


@dataclass(frozen=True)
class Dispatched:
    """Rows that this rank's experts must process, sorted by local expert. `counts` int64 [local experts].

    `order` brings the combined rows back to the order in which they were sent.
    """

    rows: torch.Tensor
    counts: torch.Tensor
    back: torch.Tensor | None
    received: torch.Tensor | None
    order: torch.Tensor


class Dispatcher(Protocol):
    """Brings tokens to the ranks that own their experts, and the results back."""

    def dispatch(self, x: torch.Tensor, experts: torch.Tensor) -> Dispatched:
        """x [n, hidden], experts int64 [n, k]."""
        ...

    def combine(self, rows: torch.Tensor, sent: Dispatched) -> torch.Tensor:
        """Processed rows in the dispatched order -> [n x k, hidden] in the order of `experts`."""
        ...


class LocalDispatcher:
    """Every expert is here."""

    def __init__(self, num_experts: int) -> None:
        self._num_experts = num_experts

    def dispatch(self, x: torch.Tensor, experts: torch.Tensor) -> Dispatched:
        flat = experts.reshape(-1)
        order = flat.argsort(stable=True)
        rows = x.index_select(0, order // experts.shape[1])
        return Dispatched(rows, torch.bincount(flat, minlength=self._num_experts), None, None, order)

    def combine(self, rows: torch.Tensor, sent: Dispatched) -> torch.Tensor:
        return torch.empty_like(rows).index_copy_(0, sent.order, rows)


class AllToAllDispatcher:
    """Dispatch and combine are one all-to-all each over the ep axis. A member without tokens takes part with none."""

    def __init__(self, ep: Communicator, num_experts: int) -> None:
        self._ep = ep
        self._num_experts = num_experts
        owners = expert_owners(num_experts, ep.size)
        self._widest = max(len(owner) for owner in owners)
        # with uneven ownership every member's counts are padded to the widest, so that the table is a rectangle
        self._columns = torch.tensor([m * self._widest + i for m, owner in enumerate(owners) for i in range(len(owner))])
        self._mine = len(owners[ep.index])

    def dispatch(self, x: torch.Tensor, experts: torch.Tensor) -> Dispatched:
        flat = experts.reshape(-1)
        order = flat.argsort(stable=True)
        table = torch.zeros(self._ep.size * self._widest, dtype=torch.int64)
        table[self._columns] = torch.bincount(flat, minlength=self._num_experts).cpu()
        counts = table.view(self._ep.size, self._widest)
        rows, received = self._ep.all_to_all(x.index_select(0, order // experts.shape[1]), counts)
        received = received.cpu()
        classes = torch.arange(self._widest).expand(self._ep.size, -1).reshape(-1)
        by_expert = classes.repeat_interleave(received.reshape(-1)).argsort(stable=True).to(x.device)
        return Dispatched(rows.index_select(0, by_expert), received.sum(0)[: self._mine], by_expert, received, order)

    def combine(self, rows: torch.Tensor, sent: Dispatched) -> torch.Tensor:
        assert sent.back is not None
        assert sent.received is not None
        by_source = torch.empty_like(rows).index_copy_(0, sent.back, rows)
        returned, _ = self._ep.all_to_all(by_source, sent.received)
        return torch.empty_like(returned).index_copy_(0, sent.order, returned)


class Experts:
    """Router, dispatch, the local experts, combine, all-reduce over tp."""

    def __init__(self, load: Loader, shape: ModelShape, layer: int, ep: Communicator, owned: range) -> None:
        name = f"model.layers.{layer}"
        checkpoint, place = load.checkpoint, load.place
        self._tp = load.tp
        self._top_k = shape.experts_per_token
        self._renormalize = shape.renormalize_experts
        self._router = place(checkpoint.router(name))
        part = load.share(shape.expert_intermediate_size)
        self._gate_up, self._down = [], []
        for expert in owned:
            halves = [place(checkpoint.expert(name, expert, half, part.start, part.stop)) for half in ("gate", "up")]
            self._gate_up.append(Linear(torch.cat(halves)))
            self._down.append(Linear(place(checkpoint.expert(name, expert, "down", part.start, part.stop))))
        self._dispatcher: Dispatcher = (
            AllToAllDispatcher(ep, shape.num_experts) if ep.size > 1 else LocalDispatcher(shape.num_experts)
        )
        self.tokens = torch.zeros(len(owned), dtype=torch.int64)  # processed by each local expert since last read
        self.rows = self.touched = 0  # processed by local experts, and experts that had any, in all steps so far

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, hidden] -> [n, hidden]; n may be 0, and then only serves the other members' tokens."""
        weights = torch.softmax(F.linear(x, self._router).float(), dim=-1)
        chosen, experts = weights.topk(self._top_k, dim=-1)
        if self._renormalize:
            chosen = chosen / chosen.sum(-1, keepdim=True)
        sent = self._dispatcher.dispatch(x, experts)
        self.tokens += sent.counts.cpu()
        rows = self._dispatcher.combine(self._compute(sent), sent)
        mixed = (rows.view(x.shape[0], self._top_k, x.shape[1]) * chosen.to(x.dtype).unsqueeze(-1)).sum(1)
        return self._tp.all_reduce(mixed)

    def _compute(self, sent: Dispatched) -> torch.Tensor:
        out = torch.empty_like(sent.rows)
        start = 0
        for expert, count in enumerate(sent.counts.tolist()):
            if count:
                stop = start + count
                out[start:stop] = self._down[expert](silu_and_mul(self._gate_up[expert](sent.rows[start:stop])))
                start = stop
                self.touched += 1
        self.rows += start
        return out
