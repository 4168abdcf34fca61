"""A mixture-of-experts layer: experts divided over ep, each expert divided over tp.

Tokens travel to their experts and back through a dispatcher; without expert parallelism they stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from runtime.checkpoint.config import ModelShape
from runtime.layout import expert_owners
from runtime.model.linear import Linear, Loader, grouped
from runtime.model.routing import Routed, mix, route
from runtime.model.row_kernels import silu_and_mul
from runtime.parallel.communicator import Communicator


@dataclass(frozen=True)
class Dispatched:
    """Rows that this rank's experts must process, sorted by local expert. `counts` int64 [local experts].

    From other ranks: `received` int64 [ranks, experts], and where each row was before they were sorted.
    """

    rows: torch.Tensor
    counts: torch.Tensor
    received: torch.Tensor | None = None
    by_expert: torch.Tensor | None = None


class Dispatcher(Protocol):
    """Brings tokens to the ranks that own their experts, and the results back."""

    def dispatch(self, x: torch.Tensor, routed: Routed) -> Dispatched:
        """x [n, hidden]."""
        ...

    def combine(self, rows: torch.Tensor, sent: Dispatched) -> torch.Tensor:
        """Processed rows in the dispatched order -> [n x k, hidden] as they were routed."""
        ...


class LocalDispatcher:
    """Every expert is here."""

    def dispatch(self, x: torch.Tensor, routed: Routed) -> Dispatched:
        return Dispatched(x.index_select(0, routed.tokens), routed.counts)

    def combine(self, rows: torch.Tensor, sent: Dispatched) -> torch.Tensor:
        return rows


class AllToAllDispatcher:
    """Dispatch and combine are one all-to-all each over the ep axis. A member without tokens takes part with none."""

    def __init__(self, ep: Communicator, num_experts: int) -> None:
        self._ep = ep
        owners = expert_owners(num_experts, ep.size)
        self._widest = max(len(owner) for owner in owners)
        # with uneven ownership every member's counts are padded to the widest, so that the table is a rectangle
        self._columns = torch.tensor([m * self._widest + i for m, owner in enumerate(owners) for i in range(len(owner))])
        self._mine = len(owners[ep.index])

    def dispatch(self, x: torch.Tensor, routed: Routed) -> Dispatched:
        table = torch.zeros(self._ep.size * self._widest, dtype=torch.int64)
        table[self._columns] = routed.counts.cpu()
        counts = table.view(self._ep.size, self._widest)
        rows, received = self._ep.all_to_all(x.index_select(0, routed.tokens), counts)
        received = received.cpu()
        classes = torch.arange(self._widest).expand(self._ep.size, -1).reshape(-1)
        by_expert = classes.repeat_interleave(received.reshape(-1)).argsort(stable=True).to(x.device)
        return Dispatched(rows.index_select(0, by_expert), received.sum(0)[: self._mine], received, by_expert)

    def combine(self, rows: torch.Tensor, sent: Dispatched) -> torch.Tensor:
        assert sent.by_expert is not None
        assert sent.received is not None
        by_source = torch.empty_like(rows).index_copy_(0, sent.by_expert, rows)
        return self._ep.all_to_all(by_source, sent.received)[0]


class Experts:
    """Router, dispatch, the local experts, combine, all-reduce over tp."""

    def __init__(self, load: Loader, shape: ModelShape, layer: int, ep: Communicator, owned: range) -> None:
        name = f"model.layers.{layer}"
        checkpoint = load.checkpoint
        self._tp = load.tp
        self._top_k = shape.experts_per_token
        self._renormalize = shape.renormalize_experts
        self._router = Linear(load.weight(checkpoint.router(name)))
        part = load.share(shape.expert_intermediate_size)
        self._gate_up, self._down = [], []
        for expert in owned:
            gate, up, down = (checkpoint.expert(name, expert, each, part.start, part.stop) for each in ("gate", "up", "down"))
            self._gate_up.append(Linear(load.weight(gate, up)))
            self._down.append(Linear(load.weight(down)))
        self._dispatcher: Dispatcher = AllToAllDispatcher(ep, shape.num_experts) if ep.size > 1 else LocalDispatcher()
        self.counts = torch.zeros(len(owned), dtype=torch.int64)  # rows of each local expert in the last pass, on the host

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, hidden] -> [n, hidden]; n may be 0, and then only serves the other members' tokens."""
        routed = route(self._router(x).float(), self._top_k, self._renormalize)
        sent = self._dispatcher.dispatch(x, routed)
        self.counts = sent.counts.cpu()
        rows = self._compute(sent.rows, self.counts.tolist())
        return self._tp.all_reduce(mix(self._dispatcher.combine(rows, sent), routed))

    def _compute(self, rows: torch.Tensor, by_expert: list[int]) -> torch.Tensor:
        work = [(expert, count) for expert, count in enumerate(by_expert) if count]
        if not work:
            return rows
        counts = [count for _, count in work]
        inner = silu_and_mul(grouped([self._gate_up[expert] for expert, _ in work], rows, counts))
        return grouped([self._down[expert] for expert, _ in work], inner, counts)
