"""Ranks without a model: they obey plans like real ones, keep what plans put into a cache, and refuse plans that make no sense.

The next token is a hash of the context that a row's block table leads to. So a wrong block, position or token anywhere shows
in the tokens that come out.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter, deque
from collections.abc import Sequence

from runtime.engine.core import Engine
from runtime.engine.messages import Attach, Bind
from runtime.engine.plan import LAST_SAMPLED, MemberPlan, NewRow, StepPlan, StepResult, decode_plan, encode, pack, unpack
from runtime.engine.scheduler import Lane
from runtime.layout import Layout
from runtime.protocol import Generate, TokensOut
from runtime.sampling import SamplingParams
from telemetry.records import EngineRecord

COUNTERS = ["prompt_tokens", "generated_tokens", "finished", "aborted", "preemptions", "prefix_queries", "prefix_hits", "steps"]
VOCAB = 8
EOS = (0,)


def choose(context: Sequence[int], banned: Sequence[int] = ()) -> int:
    """The token that follows: any function of the whole context would do."""
    first = zlib.crc32(bytes(context)) % VOCAB
    return next(t for t in ((first + i) % VOCAB for i in range(VOCAB)) if t not in banned)


def continuation(prompt: Sequence[int], params: SamplingParams, max_model_len: int) -> tuple[list[int], str]:
    """What a request must give, and why it ends."""
    tokens, out = list(prompt), []
    ends = [*params.stop_token_ids, *(() if params.ignore_eos else EOS)]
    while True:
        out.append(choose(tokens, ends if len(out) < params.min_tokens else ()))
        tokens.append(out[-1])
        if out[-1] in ends:
            return out, "stop"
        if len(tokens) >= max_model_len or len(out) == params.max_tokens:
            return out, "length"


class FakeLane:
    """The ranks of one ep member, all stages and tp shards as one."""

    def __init__(self, bind: Bind) -> None:
        self.bind = bind
        self.kv: dict[int, tuple[int, int]] = {}  # place -> (position, token)
        self.tables: dict[int, dict[int, int]] = {}
        self.news: dict[int, NewRow] = {}
        self.computed: dict[int, int | None] = {}  # None: nothing of this sequence yet
        self.last: dict[int, int] = {}
        self.decodes = self.prefills = 0

    def run(self, plan: MemberPlan, lane: Lane) -> list[int]:
        rows, starts, counts = (unpack(part).tolist() for part in (plan.rows, plan.starts, plan.counts))
        tokens, wanted = unpack(plan.tokens).tolist(), unpack(plan.wanted).tolist()
        assert len(rows) == len(starts) == len(counts) <= self.bind.max_num_seqs
        assert len(set(rows)) == len(rows), "a row twice in one step"
        assert len(tokens) == sum(counts) <= self.bind.max_num_batched_tokens
        assert all(count >= 1 for count in counts)
        assert wanted == sorted(set(wanted))
        single = [start for start, count in zip(starts, counts, strict=True) if count == 1]
        assert counts[: len(single)] == [1] * len(single), "rows of one token come first"
        assert single == sorted(single, reverse=True), "the longest context first"
        self._learn(plan)
        for row, start, count in zip(rows, starts, counts, strict=True):
            self._compute(row, start, tokens[:count], lane)
            del tokens[:count]
        self.decodes += plan.decodes
        self.prefills += sum(counts) - plan.decodes
        return [self._sample(rows[i], starts[i] + counts[i]) for i in wanted]

    def _learn(self, plan: MemberPlan) -> None:
        for new in plan.new:
            assert 0 <= new.row < self.bind.max_num_seqs
            # what the row held before is void: nothing of it may be counted on
            self.news[new.row], self.tables[new.row], self.computed[new.row] = new, {}, None
            self.last.pop(new.row, None)
        for row, index, block in unpack(plan.blocks).reshape(-1, 3).tolist():
            assert index not in self.tables[row], "a block of the table replaced"
            assert block != 0, "block 0 belongs to nobody"
            self.tables[row][index] = block

    def _compute(self, row: int, start: int, tokens: list[int], lane: Lane) -> None:
        size, table = self.bind.block_size, self.tables[row]
        if self.computed[row] is None:
            assert start % size == 0, "a found prefix is whole blocks"
            self._context(row, start)
        else:
            assert start == self.computed[row], "positions left out or computed twice"
        if LAST_SAMPLED in tokens:
            assert tokens == [LAST_SAMPLED]
            tokens = [self.last[row]]  # KeyError: this sequence has sampled nothing yet
        holders = Counter(block for sequence in lane.running for block in sequence.blocks)
        for position, token in enumerate(tokens, start):
            block = table[position // size]  # KeyError: the table does not cover the position
            assert holders[block] == 1, "writing a block that others hold"
            self.kv[block * size + position % size] = (position, token)
        self.computed[row] = start + len(tokens)

    def _context(self, row: int, length: int) -> list[int]:
        size, context = self.bind.block_size, []
        for position in range(length):
            at, token = self.kv[self.tables[row][position // size] * size + position % size]
            assert at == position, "the block holds another position"
            context.append(token)
        return context

    def _sample(self, row: int, length: int) -> int:
        new = self.news[row]
        token = choose(self._context(row, length), new.banned if length < new.banned_until else ())
        self.last[row] = token
        return token


class World:
    """An engine and fake ranks. Results wait in `results` until delivered: in order for each member, in any order among them."""

    def __init__(self, numbers: random.Random) -> None:
        self.engine = Engine("test")
        self.numbers = numbers
        self.generation = 0
        self.results: dict[tuple[int, int], deque[StepResult]] = {}
        self.tokens: dict[str, list[int]] = {}
        self.ends: dict[str, TokensOut] = {}
        self.plans: list[tuple[int, StepPlan]] = []
        self.past: list[EngineRecord] = []  # last records of earlier generations
        self._records: list[EngineRecord] = []

    def attach(self, layout: Layout, max_model_len: int, kv_blocks: int, **limits: object) -> None:
        self.generation += 1
        self.past += self._records
        self._records = []
        defaults = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "block_size": 4, "slots": layout.pp, "prefix_caching": True}
        self.bind = Bind(self.generation, layout.asdict(), [], "", **{**defaults, **limits}, eos_token_ids=list(EOS))
        self.lanes = {(dp, ep): FakeLane(self.bind) for dp in range(layout.dp) for ep in range(layout.ep)}
        self.results = {place: deque() for place in self.lanes}
        for out in self.engine.attach(self.bind, Attach(self.generation, kv_blocks, max_model_len)):
            self.take(out)

    def add(self, request: str, prompt: Sequence[int], params: SamplingParams) -> None:
        self.tokens[request] = []
        assert self.engine.add(Generate(request, list(prompt), params)) is None

    def pump(self) -> int:
        """Send what may start."""
        count = 0
        for replica, plan in self.engine.plans():
            count += 1
            self.plans.append((replica, plan))
            same = decode_plan(encode(plan))  # over the wire
            assert same == plan
            lanes = self.engine._replicas[replica].lanes
            assert len(plan.members) == len(lanes)
            assert any(member.rows for member in plan.members), "a step without work"
            assert 0 <= plan.slot < self.engine._replicas[replica]._limits.slots
            for ep, member in enumerate(plan.members):
                tokens = self.lanes[replica, ep].run(member, lanes[ep])
                self.results[replica, ep].append(StepResult(replica, ep, plan.step, pack(tokens)))
        self._check_records()
        return count

    def deliver(self) -> bool:
        """One result, of any member; False when there is none."""
        places = [place for place, waiting in self.results.items() if waiting]
        if not places:
            return False
        for out in self.engine.apply(self.results[self.numbers.choice(places)].popleft()):
            self.take(out)
        return True

    def take(self, out: TokensOut) -> None:
        assert out.request not in self.ends, "news of a request that has ended"
        self.tokens[out.request] += out.tokens
        if out.finish:
            self.ends[out.request] = out

    def run(self) -> None:
        """Until nothing is left to do."""
        for _ in range(100_000):
            sent = self.pump()
            if not self.deliver() and not sent:
                assert not self.engine.busy, "requests wait and nothing is in flight"
                return
        raise AssertionError("no end")

    def _check_records(self) -> None:
        """Counters only grow, sizes stay within their bounds."""
        now = self.engine.records()
        for before, after in zip(self._records, now, strict=False):
            assert all(getattr(before, f) <= getattr(after, f) for f in COUNTERS)
        for record in now:
            assert record.kv_used + record.kv_cached <= record.kv_total
            assert record.prefix_hits <= record.prefix_queries
        self._records = now

    def total(self, counter: str) -> int:
        """Over all replicas and generations."""
        return sum(getattr(record, counter) for record in [*self.past, *self.engine.records()])

    def check_nothing_leaked(self) -> None:
        assert not self.engine.busy
        assert not self.engine.in_flight
        assert not self.engine._waiting
        assert not self.engine._lane_of
        for replica in self.engine._replicas:
            for lane in replica.lanes:
                assert lane.running == []
                assert lane.pool.used == 0
                assert sorted(lane._rows) == list(range(self.bind.max_num_seqs))
