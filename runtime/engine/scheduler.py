"""What the ranks of one replica compute next: continuous batching, chunked prefill beside decode, preemption by recomputation.

A *lane* is one member of the ep axis: its own sequences, rows and KV blocks. All lanes of a replica step together.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from runtime.engine.kv_blocks import ROOT, BlockPool
from runtime.engine.plan import LAST_SAMPLED, MemberPlan, NewRow, StepPlan, pack
from runtime.engine.sequence import Sequence

MIN_CHUNK = 256  # tokens: a chunk of fewer reads a stage's weights for too little


@dataclass(frozen=True)
class Limits:
    """`slots`: steps in flight at once. `lookahead`: a sequence may be scheduled again before its token is known."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    slots: int
    lookahead: bool
    eos: tuple[int, ...]


@dataclass(slots=True)
class _Entry:
    """A sequence's part in a step."""

    sequence: Sequence
    start: int
    count: int
    wanted: bool
    decode: bool


@dataclass(slots=True)
class _Draft:
    """A lane's step in the making."""

    entries: list[_Entry] = field(default_factory=list)
    new: list[NewRow] = field(default_factory=list)


class Lane:
    def __init__(self, pool: BlockPool, limits: Limits) -> None:
        self.pool = pool
        self.running: list[Sequence] = []  # by arrival
        self.preempted: list[Sequence] = []  # to be taken back by the queue
        self.preemptions = 0
        self.prefix_queries = self.prefix_hits = 0
        self._limits = limits
        self._rows = list(range(limits.max_num_seqs - 1, -1, -1))

    def admit(self, sequence: Sequence) -> bool:
        """Take a waiting sequence if there are a row and blocks for all that it knows; they are its own from now on."""
        if not self._rows:
            return False
        found, names = self.pool.find(sequence.tokens)
        missing = self.pool.needed(len(sequence.tokens)) - len(found)
        if missing > self.pool.free_without(found):
            return False
        self.pool.hold(found)
        sequence.blocks = found + self.pool.allocate(missing)
        sequence.names = names
        sequence.computed = len(found) * self.pool.block_size
        sequence.row = self._rows.pop()
        if sequence.scheduled_ns is None:
            sequence.scheduled_ns = time.perf_counter_ns()
            sequence.cached_tokens = sequence.computed
        self.prefix_queries += len(sequence.tokens)
        self.prefix_hits += sequence.computed
        self.running.append(sequence)
        return True

    def remove(self, sequence: Sequence) -> None:
        """Give back its row and blocks. No step with it may be in flight."""
        self.running.remove(sequence)
        self.pool.release(sequence.blocks)
        self._rows.append(sequence.row)

    def plan(self, free_slots: int) -> _Draft:
        """Decodes first, then chunks of prompts as far as the token budget goes. `free_slots`: steps that may start now."""
        limits, draft = self._limits, _Draft()
        ready = [s for s in self.running if self._decodes(s)]
        share = len(ready)
        if not limits.lookahead:
            busy = sum(1 for s in self.running if s.awaited)
            # an equal part of all, and no more than leaves as many for each slot that is still free
            share = min(-(-(len(ready) + busy) // limits.slots), -(-len(ready) // free_slots))
        budget = limits.max_num_batched_tokens
        for sequence in ready[:share]:
            if budget and sequence.row >= 0 and self._room_for_next(sequence, draft):
                self._add(draft, sequence, 1)
                budget -= 1
        prompts = [s for s in self.running if not s.gone and not s.awaited and s.prefilling]
        budget = min(budget, self._chunk(sum(s.uncomputed for s in prompts)))
        for sequence in prompts:
            if budget:
                budget -= self._add(draft, sequence, min(budget, sequence.uncomputed))
        return draft

    def _chunk(self, tokens: int) -> int:
        """How many of so many prompt tokens a step may take.

        Stages work side by side only on different steps: in a pipeline two steps a slot, and smaller ones towards the end.
        """
        if self._limits.lookahead or self._limits.slots == 1:
            return tokens
        return max(MIN_CHUNK, -(-tokens // (2 * self._limits.slots)))

    def _decodes(self, sequence: Sequence) -> bool:
        if sequence.gone or sequence.prefilling:
            return False
        if not sequence.awaited:
            return True
        return self._limits.lookahead and sequence.awaited == 1 and not sequence.may_end(self._limits.max_model_len)

    def _room_for_next(self, sequence: Sequence, draft: _Draft) -> bool:
        """A block for the sequence's next position; the youngest other sequence gives way if there is none."""
        if self.pool.needed(sequence.computed + 1) <= len(sequence.blocks):
            return True
        while not self.pool.free:
            victim = next((s for s in reversed(self.running) if not s.in_flight and not s.gone), None)
            if victim is None:
                return False
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks += self.pool.allocate(1)
        return True

    def _preempt(self, victim: Sequence) -> None:
        self.remove(victim)
        victim.forget_place()
        self.preempted.append(victim)
        self.preemptions += 1

    def _add(self, draft: _Draft, sequence: Sequence, count: int) -> int:
        start = sequence.computed
        known = len(sequence.tokens)
        wanted = start + count >= known
        decode = wanted and count == 1 and start >= sequence.prompt_tokens
        draft.entries.append(_Entry(sequence, start, count, wanted, decode))
        if not sequence.told:
            draft.new.append(sequence.new_row(self._limits.eos))
            sequence.told = True
        sequence.computed = start + count
        sequence.in_flight += 1
        sequence.awaited += wanted
        self.register(sequence)
        return count

    def register(self, sequence: Sequence) -> None:
        """Make its full blocks findable: whoever finds them is computed after them, in every stage."""
        size = self.pool.block_size
        full = min(sequence.computed, len(sequence.tokens)) // size
        while len(sequence.names) < full:
            i = len(sequence.names)
            parent = sequence.names[-1] if sequence.names else ROOT
            sequence.names.append(self.pool.register(sequence.blocks[i], parent, sequence.tokens[i * size : (i + 1) * size]))

    def member_plan(self, draft: _Draft) -> tuple[MemberPlan, list[_Entry]]:
        """The draft as ranks read it; and the entries whose tokens will come back, in that order."""
        # ranks compute runs of similar contexts together
        entries = sorted(draft.entries, key=lambda e: (e.count > 1, -e.start))
        tokens: list[int] = []
        blocks: list[int] = []
        for entry in entries:
            s = entry.sequence
            if entry.start >= len(s.tokens):
                tokens.append(LAST_SAMPLED)
            else:
                tokens += s.tokens[entry.start : entry.start + entry.count]
            for index in range(s.told_blocks, len(s.blocks)):
                blocks += (s.row, index, s.blocks[index])
            s.told_blocks = len(s.blocks)
        wanted = [i for i, entry in enumerate(entries) if entry.wanted]
        plan = MemberPlan(
            rows=pack([entry.sequence.row for entry in entries]),
            starts=pack([entry.start for entry in entries]),
            counts=pack([entry.count for entry in entries]),
            tokens=pack(tokens),
            blocks=pack(blocks),
            wanted=pack(wanted),
            new=draft.new,
            decodes=sum(entry.decode for entry in entries),
            kv_used=self.pool.used,
        )
        return plan, entries


@dataclass(slots=True)
class Step:
    """A step in flight: each lane's entries, and which lanes have not answered yet."""

    number: int
    entries: list[list[_Entry]]
    unanswered: set[int]


class Scheduler:
    """One replica: its lanes, and its steps in flight."""

    def __init__(self, lanes: list[Lane], limits: Limits) -> None:
        self.lanes = lanes
        self.steps = 0
        self.in_flight: deque[Step] = deque()
        self._limits = limits

    @property
    def running(self) -> int:
        return sum(len(lane.running) for lane in self.lanes)

    def next_plan(self) -> StepPlan | None:
        """The next step, if one may start and there is something to do."""
        free_slots = self._limits.slots - len(self.in_flight)
        if free_slots <= 0:
            return None
        drafts = [lane.plan(free_slots) for lane in self.lanes]
        if not any(draft.entries for draft in drafts):
            return None
        self.steps += 1
        made = [lane.member_plan(draft) for lane, draft in zip(self.lanes, drafts, strict=True)]
        step = Step(self.steps, [entries for _, entries in made], set(range(len(self.lanes))))
        self.in_flight.append(step)
        return StepPlan(step.number, step.number % self._limits.slots, [plan for plan, _ in made])

    def answered(self, step: int, member: int) -> list[Sequence]:
        """A member has done its part of a step. Returns the sequences whose tokens it sent, in order.

        Steps and members answer in order, each once.
        """
        record = next((s for s in self.in_flight if s.number == step), None)
        if record is None or member not in record.unanswered:
            raise ValueError(f"member {member} answered step {step}, which it does not owe")
        record.unanswered.remove(member)
        if not record.unanswered:
            self.in_flight.remove(record)
        wanted: list[Sequence] = []
        for entry in record.entries[member]:
            entry.sequence.in_flight -= 1
            if entry.wanted:
                entry.sequence.awaited -= 1
                wanted.append(entry.sequence)
        return wanted

    def sweep(self) -> None:
        """Remove the gone sequences that no step holds any more."""
        for lane in self.lanes:
            for sequence in [s for s in lane.running if s.gone and not s.in_flight]:
                lane.remove(sequence)
