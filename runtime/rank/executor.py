"""One rank's work on a step: make the batch, receive, compute, send on, sample."""

from __future__ import annotations

import time

import numpy as np
import torch

from runtime.engine.plan import LAST_SAMPLED, MemberPlan, unpack
from runtime.model.batch import Batch, BlockTables
from runtime.model.decoder import Stage
from runtime.parallel.mesh import Mesh
from runtime.protocol import TokenLogprobs
from runtime.rank.graphs import Capture, DecodeGraphs
from runtime.rank.sampler import Sampler
from runtime.rank.timeline import DeviceTimeline, HostTimeline, Timeline


class Sampled:
    """The first tp rank of the last stage has the tokens, int64 [wanted]; the others none."""

    __slots__ = ("logprobs", "tokens")

    def __init__(self, tokens: np.ndarray | None = None, logprobs: dict[int, TokenLogprobs] | None = None) -> None:
        self.tokens = tokens
        self.logprobs = logprobs or {}


class Executor:
    """A stage, its block tables and its sampler. `rows`: the rows that the engine may use."""

    def __init__(
        self,
        stage: Stage,
        mesh: Mesh,
        rows: int,
        max_model_len: int,
        block_size: int,
        kv_blocks: int,
        capture: Capture | None = None,
    ) -> None:
        """`capture`: decode steps are to be captured, where the stage allows it."""
        self.stage, self.mesh = stage, mesh
        stage.allocate(kv_blocks, block_size)
        self._tables = BlockTables(rows, -(-max_model_len // block_size), block_size, kv_blocks, stage)
        whole = mesh.layout.replica_size == 1 and not stage.experts
        self._graphs = DecodeGraphs(stage, self._tables, capture) if capture is not None and whole else None
        self._sampler = Sampler(rows)
        self._last = np.zeros(rows, dtype=np.int64)  # the token that each row sampled last
        self.timeline: Timeline = HostTimeline() if mesh.events is None else DeviceTimeline(mesh.events)
        self.slow_s = 0.0  # an injected fault: how much longer every forward takes

    @property
    def reports(self) -> bool:
        """Whether this rank tells the engine what was sampled."""
        return self.mesh.last_stage and self.mesh.at.tp == 0

    @torch.inference_mode()
    def run(self, plan: MemberPlan) -> Sampled:
        """Every rank of the replica runs the same plan in the same order. Its phases are then in `timeline`."""
        sampled = self._run(plan)
        self.timeline.leave()
        return sampled

    def _run(self, plan: MemberPlan) -> Sampled:
        rows, starts, counts = unpack(plan.rows), unpack(plan.starts), unpack(plan.counts)
        wanted = unpack(plan.wanted)
        self._tables.extend(unpack(plan.blocks).reshape(-1, 3))
        for new in plan.new:
            self._sampler.begin(new)
        tokens = unpack(plan.tokens)
        if (tokens == LAST_SAMPLED).any():
            tokens = np.where(tokens == LAST_SAMPLED, self._last[np.repeat(rows, counts)], tokens)
        if self._graphs is not None and len(wanted) == len(rows) == len(tokens):
            self.timeline.enter("forward")
            return self._sample(self._graphs.logits(rows, starts, tokens), rows, starts + 1)
        batch = self._tables.batch(rows, starts, counts, tokens, wanted)
        x = self._pass_through(batch)
        if x is None or not len(wanted):
            return Sampled(np.empty(0, dtype=np.int64) if self.reports else None)
        return self._sample(self.stage.logits(x, batch), rows[wanted], (starts + counts)[wanted])

    def _pass_through(self, batch: Batch) -> torch.Tensor | None:
        """The hidden states after the last stage; None on the stages before, which have sent theirs on."""
        mesh, stage, timeline = self.mesh, self.stage, self.timeline
        if mesh.first_stage:
            timeline.enter("forward")
            x = stage.embed(batch)
        else:
            timeline.enter("recv")
            x = torch.empty((batch.size, stage.shape.hidden_size), dtype=stage.dtype, device=stage.device)
            mesh.pp.receive(x, mesh.at.pp - 1)
            timeline.enter("forward")
        if self.slow_s:
            time.sleep(self.slow_s)
        x = stage.forward(x, batch)
        if mesh.last_stage:
            return x
        timeline.enter("send")
        mesh.pp.send(x, mesh.at.pp + 1)
        return None

    def _sample(self, logits: torch.Tensor, rows: np.ndarray, positions: np.ndarray) -> Sampled:
        """logits [wanted, vocab / tp], this rank's part."""
        head, mesh = self.stage.head, self.mesh
        assert head is not None
        self.timeline.enter("sample")
        if self._sampler.all_greedy(rows):
            values, places = logits.max(-1)
            if mesh.tp.size > 1:
                best = mesh.tp.all_gather(torch.stack([values.double(), (places + head.start).double()]))
                winner = best[:, 0].argmax(0, keepdim=True)
                places = best[:, 1].gather(0, winner).squeeze(0).long()
            tokens, logprobs = places.cpu().numpy(), dict[int, TokenLogprobs]()
        else:
            chosen, logprobs = self._sampler.sample(head.gather(logits), rows, positions)
            tokens = chosen.cpu().numpy()
        self._last[rows] = tokens
        return Sampled(tokens, logprobs) if self.reports else Sampled()
