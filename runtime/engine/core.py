"""The engine of a deployment: one queue, a scheduler for each replica. Pure: messages in, plans and messages out.

Requests outlive generations: when ranks are rebuilt, every sequence waits with what it has generated and is computed again.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator

from runtime.engine.kv_blocks import BlockPool
from runtime.engine.messages import Attach, Bind
from runtime.engine.plan import StepPlan, StepResult, unpack
from runtime.engine.scheduler import Lane, Limits, Scheduler
from runtime.engine.sequence import Sequence
from runtime.layout import Layout
from runtime.protocol import FINISH_ABORT, FINISH_ERROR, FINISH_LENGTH, FINISH_STOP, Generate, TokensOut
from telemetry.records import EngineRecord, RequestRecord


class Engine:
    """`max_queue`: requests that may wait; more are refused with an error that starts with "queue full"."""

    def __init__(self, deployment: str, max_queue: int = 1024) -> None:
        self.deployment = deployment
        self.generation = 0
        self.finished: list[RequestRecord] = []  # taken by whoever sends telemetry
        self._max_queue = max_queue
        self._max_model_len = 0
        self._waiting: deque[Sequence] = deque()
        self._behind: set[Sequence] = set()  # begun on an earlier generation, without a token of this one yet
        self._sequences: dict[str, Sequence] = {}
        self._lane_of: dict[str, tuple[int, Lane]] = {}
        self._replicas: list[Scheduler] = []
        self._eos: tuple[int, ...] = ()
        self._random = random.Random()
        self._prompt_tokens: list[int] = []
        self._generated: list[int] = []
        self._finished: list[int] = []
        self._aborted: list[int] = []

    @property
    def busy(self) -> bool:
        return bool(self._sequences)

    @property
    def occupied(self) -> tuple[bool, ...]:
        """Whether any request waits; whether any runs, by replica."""
        return bool(self._waiting), *(replica.running > 0 for replica in self._replicas)

    @property
    def in_flight(self) -> bool:
        """Whether a step is out with the ranks."""
        return any(replica.in_flight for replica in self._replicas)

    @property
    def replayed(self) -> bool:
        """Whether those who outlived their ranks go on. One that waits for room is not behind: it waits as any other does."""
        return not any(sequence.row >= 0 for sequence in self._behind)

    def attach(self, bind: Bind, attach: Attach) -> list[TokensOut]:
        """Schedule onto a new generation of ranks. Ends the requests that came before it and do not fit its context."""
        layout = Layout(**bind.layout)
        lookahead = layout.pp == 1
        limits = Limits(
            bind.max_num_seqs,
            bind.max_num_batched_tokens,
            attach.max_model_len,
            max(2, bind.slots) if lookahead else bind.slots,
            lookahead,
            tuple(bind.eos_token_ids),
        )
        self.generation = attach.generation
        self._max_model_len = attach.max_model_len
        self._eos = limits.eos
        self._behind = {sequence for sequence in self._waiting if sequence.scheduled_ns is not None}
        self._replicas = [
            Scheduler(
                [Lane(BlockPool(attach.kv_blocks, bind.block_size, bind.prefix_caching), limits) for _ in range(layout.ep)],
                limits,
            )
            for _ in range(layout.dp)
        ]
        counters = (self._prompt_tokens, self._generated, self._finished, self._aborted)
        for counter in counters:
            counter[:] = [0] * layout.dp
        return [self._outgrown(s) for s in list(self._waiting) if len(s.tokens) >= self._max_model_len]

    def _outgrown(self, sequence: Sequence) -> TokensOut:
        self._waiting.remove(sequence)
        if sequence.output_tokens:
            self._end(sequence, FINISH_LENGTH)
            return TokensOut(sequence.request, [], FINISH_LENGTH)
        self._end(sequence, FINISH_ERROR)
        return TokensOut(sequence.request, [], FINISH_ERROR, error=self._too_long(len(sequence.tokens)))

    def _too_long(self, tokens: int) -> str:
        return f"the prompt has {tokens} tokens, the context {self._max_model_len}"

    def detach(self, error: str = "") -> list[TokensOut]:
        """The ranks are gone. With an error every request ends with it; without, all wait for the next generation."""
        running = sorted((s for s in self._sequences.values() if s.row >= 0), key=lambda s: s.arrived_ns)
        for sequence in running:
            sequence.forget_place()
        self._waiting.extendleft(reversed(running))
        self._lane_of.clear()
        self._replicas = []
        return self.end_all(FINISH_ERROR, error) if error else []

    def end_all(self, finish: str, error: str) -> list[TokensOut]:
        """End every request."""
        ended = [TokensOut(request, [], finish=finish, error=error) for request in self._sequences]
        for sequence in list(self._sequences.values()):
            self._end(sequence, finish)
        self._waiting.clear()
        return ended

    def add(self, message: Generate) -> TokensOut | None:
        """Queue a request; a message when it cannot be."""
        error = None
        if message.request in self._sequences:
            error = f"request {message.request} is already running"
        elif not message.prompt:
            error = "the prompt is empty"
        elif self._max_model_len and len(message.prompt) >= self._max_model_len:
            error = self._too_long(len(message.prompt))
        elif len(self._waiting) >= self._max_queue:
            error = f"queue full: {len(self._waiting)} requests are waiting"
        if error:
            return TokensOut(message.request, [], finish=FINISH_ERROR, error=error)
        seed = message.params.seed if message.params.seed is not None else self._random.getrandbits(62)
        sequence = Sequence(message.request, list(message.prompt), len(message.prompt), message.params, seed)
        self._sequences[message.request] = sequence
        self._waiting.append(sequence)
        return None

    def abort(self, request: str) -> None:
        """Forget a request as soon as no step holds it. Unknown ones are fine: it may just have ended."""
        sequence = self._sequences.get(request)
        if sequence is None:
            return
        self._end(sequence, FINISH_ABORT)
        if sequence in self._waiting:
            self._waiting.remove(sequence)

    def plans(self) -> Iterator[tuple[int, StepPlan]]:
        """Every step that may start now, with its replica."""
        for index, replica in enumerate(self._replicas):
            replica.sweep()
            while True:
                self._admit()
                plan = replica.next_plan()
                took_back = self._take_back(replica)
                if plan is not None:
                    yield index, plan
                elif not took_back:
                    break

    def _admit(self) -> None:
        """Give waiting sequences, oldest first, to the emptiest lane that can take them."""
        while self._waiting:
            sequence = self._waiting[0]
            lanes = [(len(lane.running), r, lane) for r, replica in enumerate(self._replicas) for lane in replica.lanes]
            for _, r, lane in sorted(lanes, key=lambda each: each[:2]):
                if lane.admit(sequence):
                    self._lane_of[sequence.request] = (r, lane)
                    break
            else:
                return
            self._waiting.popleft()

    def _take_back(self, replica: Scheduler) -> bool:
        """Preempted sequences wait again, before all others."""
        taken = [sequence for lane in replica.lanes for sequence in lane.preempted]
        for sequence in taken:
            self._lane_of.pop(sequence.request, None)
            self._waiting.appendleft(sequence)
        for lane in replica.lanes:
            lane.preempted.clear()
        return bool(taken)

    def apply(self, result: StepResult) -> list[TokensOut]:
        """A step's tokens: what to tell the clients."""
        replica = self._replicas[result.replica]
        outputs: list[TokensOut] = []
        tokens = unpack(result.tokens).tolist()
        lane = replica.lanes[result.member]
        now = time.perf_counter_ns()
        for i, (sequence, token) in enumerate(zip(replica.answered(result.step, result.member), tokens, strict=True)):
            if sequence.gone:
                continue
            if sequence.first_token_ns is None:
                self._prompt_tokens[result.replica] += sequence.prompt_tokens
            sequence.add(token, now)
            self._behind.discard(sequence)
            self._generated[result.replica] += 1
            lane.register(sequence)
            finish = sequence.finish_reason(self._max_model_len, self._eos)
            logprobs = [result.logprobs[i]] if i in result.logprobs else None
            stop = token if finish == FINISH_STOP and token in sequence.params.stop_token_ids else None
            outputs.append(TokensOut(sequence.request, [token], finish, stop, sequence.cached_tokens, logprobs))
            if finish:
                self._end(sequence, finish)
        replica.sweep()
        return outputs

    def _end(self, sequence: Sequence, reason: str) -> None:
        sequence.gone = True
        self._behind.discard(sequence)
        del self._sequences[sequence.request]
        replica = self._lane_of.pop(sequence.request, (0, None))[0]
        if self._finished:
            (self._aborted if reason == FINISH_ABORT else self._finished)[replica] += 1
        self.finished.append(
            RequestRecord(
                deployment=self.deployment,
                generation=self.generation,
                request=sequence.request,
                replica=replica,
                arrived_ns=sequence.arrived_ns,
                scheduled_ns=sequence.scheduled_ns,
                first_token_ns=sequence.first_token_ns,
                finished_ns=time.perf_counter_ns(),
                prompt_tokens=sequence.prompt_tokens,
                cached_tokens=sequence.cached_tokens,
                output_tokens=sequence.output_tokens,
                finish_reason=reason,
                gaps_ns=sequence.gaps_ns,
            )
        )

    def records(self) -> list[EngineRecord]:
        """The state of each replica's queue. Those who wait belong to no replica yet and are counted with the first."""
        now = time.perf_counter_ns()
        return [
            EngineRecord(
                deployment=self.deployment,
                generation=self.generation,
                replica=i,
                time_ns=now,
                running=replica.running,
                waiting=len(self._waiting) if i == 0 else 0,
                kv_used=sum(lane.pool.used for lane in replica.lanes),
                kv_cached=sum(lane.pool.cached for lane in replica.lanes),
                kv_total=sum(lane.pool.total for lane in replica.lanes),
                prompt_tokens=self._prompt_tokens[i],
                generated_tokens=self._generated[i],
                finished=self._finished[i],
                aborted=self._aborted[i],
                preemptions=sum(lane.preemptions for lane in replica.lanes),
                prefix_queries=sum(lane.prefix_queries for lane in replica.lanes),
                prefix_hits=sum(lane.prefix_hits for lane in replica.lanes),
                steps=replica.steps,
                in_flight=len(replica.in_flight),
            )
            for i, replica in enumerate(self._replicas)
        ]
