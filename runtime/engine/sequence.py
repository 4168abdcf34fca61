"""One request's sequence on its way: its tokens, its place in the cache, what is in flight."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from runtime.engine.plan import NewRow
from runtime.protocol import FINISH_LENGTH, FINISH_STOP
from runtime.sampling import SamplingParams
from telemetry.records import MAX_GAPS


@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens`: prompt and output. `computed`: positions that plans have put into the cache. `awaited`: tokens on their way."""

    request: str
    tokens: list[int]
    prompt_tokens: int
    params: SamplingParams
    seed: int
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    scheduled_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int = 0
    gaps_ns: list[int] = field(default_factory=list)  # between its tokens
    row: int = -1
    blocks: list[int] = field(default_factory=list)
    names: list[int] = field(default_factory=list)  # of its registered blocks' contents
    told_blocks: int = 0  # how many of its blocks the ranks know
    told: bool = False  # whether the ranks know the row's parameters
    computed: int = 0
    cached_tokens: int = 0
    in_flight: int = 0
    awaited: int = 0
    gone: bool = False  # aborted or finished while steps were in flight

    @property
    def output_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def uncomputed(self) -> int:
        """Known tokens that no plan has put into the cache yet."""
        return len(self.tokens) - self.computed

    @property
    def prefilling(self) -> bool:
        """Known tokens are still to be computed, beyond the last one."""
        return self.uncomputed > 1

    def add(self, token: int, now_ns: int) -> None:
        """A token is ready."""
        if self.first_token_ns is None:
            self.first_token_ns = now_ns
        elif len(self.gaps_ns) < MAX_GAPS:
            self.gaps_ns.append(now_ns - self.last_token_ns)
        self.last_token_ns = now_ns
        self.tokens.append(token)

    def forget_place(self) -> None:
        """After preemption or the end of a generation: everything is to be computed again."""
        self.row, self.blocks, self.names = -1, [], []
        self.told_blocks, self.told = 0, False
        self.computed = self.in_flight = self.awaited = 0

    def new_row(self, eos: tuple[int, ...]) -> NewRow:
        p = self.params
        banned: list[int] = []
        if p.min_tokens > self.output_tokens:
            banned = [*([] if p.ignore_eos else eos), *p.stop_token_ids]
        return NewRow(
            row=self.row,
            seed=self.seed,
            params=p,
            prompt_tokens=self.prompt_tokens,
            history=list(self.tokens) if p.penalized else [],
            banned=banned,
            banned_until=self.prompt_tokens + p.min_tokens,
        )

    def finish_reason(self, max_model_len: int, eos: tuple[int, ...]) -> str | None:
        """Why the last token ends the sequence, if it does."""
        last, p = self.tokens[-1], self.params
        if (last in eos and not p.ignore_eos) or last in p.stop_token_ids:
            return FINISH_STOP
        if len(self.tokens) >= max_model_len or (p.max_tokens is not None and self.output_tokens >= p.max_tokens):
            return FINISH_LENGTH
        return None

    def may_end(self, max_model_len: int) -> bool:
        """Whether the tokens on their way are surely the last."""
        total = len(self.tokens) + self.awaited
        p = self.params
        return total >= max_model_len or (p.max_tokens is not None and total - self.prompt_tokens >= p.max_tokens)
