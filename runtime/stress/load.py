"""Makes the load that a plan asks for, and measures it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from runtime.stress.client import StressClient, Target, load_clock
from runtime.stress.faults import Ranks, play
from runtime.stress.live import Live
from runtime.stress.metrics import (
    count_requests,
    errors_by_kind,
    goodput,
    judge_generator,
    latencies,
    timeline,
    tokens_between,
)
from runtime.stress.plan import Ask, ClosedLoop, Plan, asks, check
from runtime.stress.progress import Progress
from runtime.stress.result import FaultDone, Result
from runtime.stress.sample import INTERRUPTED, UNFINISHED, Sample
from runtime.stress.trace import Trace
from runtime.stress.values import BadPlan

PROGRESS_EVERY_S = 0.5
LOOK_EVERY_S = 0.1  # whether we are to stop
TICK_S = 0.02  # of the timer that tells how late we see what has come


def run(
    plan: Plan,
    target: Target,
    on_progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    ranks: Ranks | None = None,
) -> Result:
    """Blocks until the load is over: a dashboard calls it in a thread. `stop`, set from anywhere, ends it early; what was
    measured is returned, marked as interrupted. `on_progress` is called in this thread, twice a second. `ranks` finds the
    processes that faults go to. Raises BadPlan.
    """
    check(plan, None)
    if plan.faults and ranks is None:
        raise BadPlan("--fault: faults go to local deployments of this daemon alone; nearest that works: no --fault")
    load = _Load(plan, target, ranks)
    return asyncio.run(load.run(on_progress or (lambda _: None), stop or threading.Event()))


class _Load:
    def __init__(self, plan: Plan, target: Target, ranks: Ranks | None) -> None:
        self._plan, self._target, self._ranks = plan, target, ranks
        self._now: Callable[[], float] = load_clock()
        self._samples: list[Sample] = []
        self._open: set[asyncio.Task[None]] = set()
        self._faults: list[FaultDone] = []
        self._cut = UNFINISHED
        self._live = Live(plan.pattern.label, plan.duration_s, plan.slo)
        self._cpu_at_start = 0.0
        self._late: list[float] = []

    async def run(self, on_progress: Callable[[Progress], None], stop: threading.Event) -> Result:
        async with StressClient(self._target, lambda: self._now(), self._live.token) as client:
            # to make the client takes tens of milliseconds, in which the first requests would be due already
            started, self._cpu_at_start = time.time(), time.thread_time()
            self._now = load_clock()
            work = asyncio.create_task(self._work(client))
            faults = asyncio.create_task(self._play())
            ticks = asyncio.create_task(self._tick())
            try:
                interrupted = await self._watch(work, on_progress, stop)
                if interrupted:
                    self._cut = INTERRUPTED
            finally:
                for task in (work, faults, ticks, *self._open):
                    task.cancel()
                await asyncio.gather(work, faults, ticks, *self._open, return_exceptions=True)
                self._tell_unreached()
        wall = self._now()
        return self._result(started, interrupted, (time.thread_time() - self._cpu_at_start) / wall)

    async def _watch(self, work: asyncio.Task[None], on_progress: Callable[[Progress], None], stop: threading.Event) -> bool:
        """Until the work is done, or we are to stop: then true."""
        due = PROGRESS_EVERY_S
        while not work.done():
            if stop.is_set():
                return True
            await asyncio.wait([work], timeout=LOOK_EVERY_S)
            if self._now() >= due:
                due = self._now() + PROGRESS_EVERY_S
                on_progress(self._progress())
        work.result()
        return False

    async def _tick(self) -> None:
        while True:
            due = self._now() + TICK_S
            await asyncio.sleep(TICK_S)
            now = self._now()
            self._late.append(now - due)
            self._live.woke(now, now - due)

    def _tell_unreached(self) -> None:
        told = {done.fault for done in self._faults}
        for fault in self._plan.faults:
            if str(fault) not in told:
                self._faults.append(FaultDone(str(fault), fault.at_s, None, "not done: the load ended before"))

    async def _play(self) -> None:
        if self._ranks is not None:
            await play(self._plan.faults, self._ranks, self._now, self._faults.append)

    async def _work(self, client: StressClient) -> None:
        todo = asks(self._plan)
        if isinstance(self._plan.pattern, ClosedLoop):
            for _ in range(self._plan.pattern.concurrency):
                self._spawn(self._client_loop(client, todo))
            await asyncio.wait(self._open, timeout=self._plan.duration_s)
        else:
            for ask in todo:
                body = client.body(ask)
                await asyncio.sleep(max(0.0, ask.at_s - self._now()))
                self._spawn(self._one(client, ask, body, ask.at_s))
        if self._open:
            await asyncio.wait(self._open, timeout=self._plan.drain_s)

    async def _client_loop(self, client: StressClient, todo: Iterator[Ask]) -> None:
        end = self._plan.duration_s
        for ask in todo:
            intended = self._now()
            if end is not None and intended >= end:
                return
            await self._one(client, ask, client.body(ask), intended)

    async def _one(self, client: StressClient, ask: Ask, body: bytes, intended: float) -> None:
        sample = Sample(ask.index, intended, self._now(), len(ask.prompt), ask.output_tokens)
        self._samples.append(sample)
        self._live.sent(sample)
        try:
            await client.send(body, sample)
        except asyncio.CancelledError:
            sample.error = self._cut
            raise
        except Exception as error:
            sample.error = f"{type(error).__name__} in the client"  # whatever it is, the answer is not whole
        finally:
            sample.ended = self._now()
            self._live.ended(sample)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    def _progress(self) -> Progress:
        now = self._now()
        return self._live.progress(now, (time.thread_time() - self._cpu_at_start) / now, tuple(self._faults))

    def _result(self, started: float, interrupted: bool, cpu_share: float) -> Result:
        plan, samples = self._plan, self._samples
        measured = [sample for sample in samples if sample.intended >= plan.warmup_s]
        end = max((sample.ended for sample in measured if sample.ended is not None), default=plan.warmup_s)
        window_s = end - plan.warmup_s
        requests = count_requests(samples, plan.warmup_s)
        tokens = tokens_between(samples, plan.warmup_s, end)
        latency = latencies(measured)
        tpot = latency.get("tpot")
        fine = [sample for sample in measured if sample.ok]
        traced = isinstance(plan.pattern, Trace)
        return Result(
            name=self._target.name,
            url=self._target.url,
            kind=plan.kind,
            load=plan.pattern.label,
            concurrency=plan.pattern.concurrency if isinstance(plan.pattern, ClosedLoop) else None,
            input_tokens="trace" if traced else str(plan.input),
            asked_tokens="trace" if traced else str(plan.output),
            seed=plan.seed,
            started=started,
            interrupted=interrupted,
            warmup_s=plan.warmup_s,
            window_s=window_s,
            requests=requests,
            errors=errors_by_kind(measured),
            latency=latency,
            prompt_tokens=sum(sample.prompt_tokens for sample in fine),
            cached_tokens=sum(sample.cached_tokens for sample in fine),
            events=sum(len(sample.events) for sample in fine),
            output_tokens=tokens,
            output_tokens_per_s=tokens / window_s if window_s > 0 else 0.0,
            requests_per_s=requests.ok / window_s if window_s > 0 else 0.0,
            interactivity=1000 / tpot.p50 if tpot and tpot.p50 > 0 else None,
            goodput=goodput(measured, plan.slo, window_s),
            generator=judge_generator(measured, cpu_share, self._late),
            faults=tuple(self._faults),
            timeline=timeline(samples, max((sample.ended or 0.0 for sample in samples), default=0.0)),
        )
