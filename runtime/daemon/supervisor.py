"""One deployment's life in the daemon: start, serve, notice a failure, rebuild, drain, stop.

The ranks of a generation stand or fall together. The engine outlives generations. Whatever ends a generation, clients are told
first, then processes are killed, then the next generation is tried.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Mapping
from typing import Any

from runtime.checkpoint.config import ModelShape
from runtime.checkpoint.tokenizer import Tokenizer
from runtime.control import RECONFIGURE, Outcome
from runtime.daemon import blame, state
from runtime.daemon.attention import Attention
from runtime.daemon.blame import RankFailure
from runtime.daemon.engine_link import EngineLink
from runtime.daemon.engines import Engines
from runtime.daemon.frontend import DeploymentFrontend
from runtime.daemon.generation import Generation
from runtime.daemon.house import House
from runtime.daemon.launcher import Endpoints, LaunchRefused, RankGroup
from runtime.daemon.reconfigure import Change, Settled, settled
from runtime.daemon.rendezvous import binding, endpoints_under
from runtime.daemon.reports import Reports
from runtime.daemon.restarts import Restarts
from runtime.daemon.settle import Machine, settle
from runtime.daemon.state import State
from runtime.engine.messages import Attach, Detach, Pause, Stop
from runtime.protocol import Abort, Generate
from runtime.rank.board import Phase
from runtime.spec import DeploymentSpec
from telemetry.records import DeploymentRecord

log = logging.getLogger(__name__)

ENGINE_START_S = 30.0
_START_TICK_S = 0.02  # in a reconfiguration clients wait for the end of it
_TICK_S = 0.5


class Supervisor:
    """A deployment. `run` is its life; `stop` may be called at any time of it."""

    def __init__(
        self, spec: DeploymentSpec, shape: ModelShape, tokenizer: Tokenizer, number: int, house: House, generation: int = 0
    ) -> None:
        """`number`: not used by this daemon before. `generation`: the last that had this name. Raises LaunchRefused."""
        self.spec = spec = spec.named()
        self.shape = shape
        self.state = State.STARTING
        self.generation = generation
        self.reason = ""
        placement = settle(spec, shape, Machine.here())
        self._attention = Attention()
        self.frontend = DeploymentFrontend(spec.name, shape, tokenizer, placement.max_model_len, self._to_engine)
        self._placement = placement
        self._house, self._number = house, number
        self._reports = Reports(house.hub, spec, placement)
        self._restarts = Restarts()
        self._engines = Engines(spec, number, house, self.frontend.deliver, self._attention.wake)
        self._change: Change | None = None
        self._sampling: asyncio.Task[None] | None = None

    async def next_record(self, after: DeploymentRecord | None) -> DeploymentRecord:
        """The first record that differs from `after`."""
        return await self._reports.next(after)

    @property
    def record(self) -> DeploymentRecord | None:
        """The newest."""
        return self._reports.last

    def reconfigure(self, fields: Mapping[str, Any]) -> Change:
        """Begin to serve under a spec with other `fields`, keeping every request; a failure rolls back.

        Raises ValueError (LaunchRefused among it) for what cannot be; nothing was touched then.
        """
        if self._change is not None:
            raise ValueError(f"'{self.spec.name}' is being reconfigured ({self._change}): wait for the end of that")
        if self.state != State.READY or self._attention.stopping:
            raise ValueError(f"'{self.spec.name}' is {self.state}: a deployment that is READY can be reconfigured")
        new = settled(self.spec, fields, self.shape, self.frontend.reach)
        change = Change(Settled(self.spec, self._placement), new, self._tell_phase)
        if not change.fields:
            change.end(Outcome.UNCHANGED)
            return change
        self._change = change
        self._reports.event(self.generation, "info", "operator", f"{RECONFIGURE}: {change}")
        self.frontend.narrow(new.placement.max_model_len)
        self._attention.wake()
        return change

    def stop(self, now: bool = False) -> None:
        """Finish what runs, within the drain's time, then end; `now`: end at once."""
        self._attention.stop(now)

    async def run(self) -> None:
        """From the first process until it was told to stop. A deployment that FAILED waits for that without any process."""
        try:
            while not self._attention.stopping:
                self.generation += 1
                failure = await self._generation()
                if self._change is not None and not self._attention.stopping:
                    self._adopt(self._change)
                    continue
                if failure is None:
                    break
                again = self._restarts.failed(time.monotonic(), ready=self.state == State.READY)
                self.reason = str(failure)
                if not again:
                    await self._stand_failed()
                    break
                self._enter(State.RESTARTING)
        except Exception as error:
            # a fault of ours: no process shall be left without its supervisor, nor a state that is not true
            log.exception("the supervisor of %s failed", self.spec.name)
            self._end_change(Outcome.FAILED, f"{error}")
            self.reason = f"internal error: {type(error).__name__}: {error}"
            self.frontend.fail(self.reason)
            await self._stand_failed()
        finally:
            self.frontend.fail("was stopped")
            await self._engines.end()
        if self._change is not None:
            self._end_change(Outcome.STOPPED)
        self._enter(State.STOPPED)

    def _adopt(self, change: Change) -> None:
        self.spec, self._placement = change.target
        self._reports.adopt(*change.target)
        change.loads()

    async def _stand_failed(self) -> None:
        await self._engines.end()
        self._enter(State.FAILED)
        while not self._attention.stopping:
            await self._attention.wait()

    async def _generation(self) -> RankFailure | None:
        """One generation, from its sockets to the death of its last rank. None: it was told to stop."""
        sockets = self._house.sockets / f"{self._number}-{self.generation}"
        ranks: Generation | None = None
        failure: RankFailure | None = None
        try:
            sockets.mkdir()
            self._show(None)
            engine = await self._engines.living()
            endpoints = endpoints_under(sockets, self.spec.layout.world_size, self._house.hub.endpoints.records)
            failure = await self._bind(engine, endpoints)
            if failure is None and not self._attention.stopping:
                logs = self._house.logs / self.spec.name
                group = RankGroup.launch(self.spec, self.shape, self.generation, endpoints, logs, self._house.zygote())
                ranks = Generation(group, engine, self._attention)
                self._reports.chosen(self.generation)
                failure = await self._live(ranks)
        except (LaunchRefused, OSError) as error:
            failure = RankFailure(blame.NURSERY, None, str(error))
        finally:
            self._part(failure)
            if self._change is not None and ranks is not None:
                self._show(ranks.group, state.STOP)
            if self._sampling is not None:
                self._sampling.cancel()
            if ranks is not None:
                undead = await ranks.bury(stalled=failure is not None and failure.kind == blame.STALLED)
                if undead:
                    words = f"killed but not gone, in an uninterruptible call: {undead}"
                    self._reports.event(self.generation, "error", "undead", words)
            if failure is not None and failure.kind == blame.ENGINE:
                await self._engines.end()  # it may hang
            shutil.rmtree(sockets, ignore_errors=True)
        return failure

    async def _bind(self, engine: EngineLink, endpoints: Endpoints) -> RankFailure | None:
        engine.send(binding(self.spec, self.shape, self.generation, endpoints))
        deadline = time.monotonic() + ENGINE_START_S
        while engine.bound != self.generation and not self._attention.stopping:
            if not engine.alive or time.monotonic() > deadline:
                return RankFailure(blame.ENGINE, None, engine.epitaph())
            await self._attention.wait(_TICK_S)
        return None

    async def _live(self, ranks: Generation) -> RankFailure | None:
        """From their birth to a failure, a stop, or a change, for which the engine has come to rest."""
        failure: RankFailure | None = None
        for part in (self._load, self._replay, self._serve, self._pause):
            failure = await part(ranks)
            if failure is not None or self._attention.stopping:
                break
        return await self._drain(ranks) if failure is None and self._attention.stopping else failure

    async def _load(self, ranks: Generation) -> RankFailure | None:
        def loaded() -> bool:
            self._show(ranks.group)
            if self._change is not None:
                self._change.looks(ranks.group)
            return ranks.group.phase >= Phase.READY

        return await ranks.until(loaded, _START_TICK_S)

    async def _replay(self, ranks: Generation) -> RankFailure | None:
        """Give the ranks to the engine, which goes on with what it kept."""
        group, engine = ranks.group, ranks.engine
        if self._change is not None:
            self._change.replays()
            reach = self.frontend.reach
            if not self._change.back and reach > group.max_model_len:
                room = f"{self.spec.layout} has KV memory for {group.max_model_len} tokens, an open request may come to {reach}"
                return RankFailure(blame.NO_ROOM, group.limiting_rank, room)
        self.frontend.narrow(group.max_model_len)
        engine.send(Attach(self.generation, group.kv_blocks, group.max_model_len))
        self._show(group, state.REPLAY)
        # a rank that stands still is named before this patience with the engine, which waits for it, is at its end
        patience = 2 * self.spec.stall_timeout_s
        failure, steps = None, -1
        while failure is None and engine.replayed != self.generation and not self._attention.stopping:
            if steps == group.steps:
                return ranks.engine_failure()
            steps = group.steps
            failure = await ranks.until(lambda: engine.replayed == self.generation, timeout=patience)
        return failure

    async def _serve(self, ranks: Generation) -> RankFailure | None:
        self._restarts.ready()
        self._end_change()
        self.frontend.open(ranks.group.max_model_len)
        self._reports.capacity(ranks.group)
        self._sampling = asyncio.create_task(self._reports.watch_devices(ranks.group))
        self._enter(State.READY, ranks.group)

        def changes() -> bool:
            self._reports.suspensions(ranks.group)
            return self._change is not None

        return await ranks.until(changes)

    async def _pause(self, ranks: Generation) -> RankFailure | None:
        """Let the steps under way end. What is not back in time is computed again."""
        if self._change is not None:
            self.reason = self._change.reason
        self._enter(State.RECONFIGURING, ranks.group)
        self._show(ranks.group, state.DRAIN)
        ranks.engine.send(Pause(self.generation))
        return await ranks.until(lambda: ranks.engine.paused == self.generation, timeout=self._house.drain_s)

    async def _drain(self, ranks: Generation) -> RankFailure | None:
        """Let the engine finish, or end all in the end. A failure meanwhile is told to clients, and the stop goes on."""
        group, engine = ranks.group, ranks.engine
        self.frontend.close("is being stopped")
        self._enter(State.DRAINING, group)
        group.leave()
        engine.send(Stop(now=self._attention.stop_now))
        deadline = time.monotonic() + self._house.drain_s
        while engine.alive and not engine.drained and not self._attention.stop_now and time.monotonic() < deadline:
            await self._attention.wait(min(_TICK_S, max(0.0, deadline - time.monotonic())))
            group.poll()
            if group.failure is not None:
                self._reports.failure(self.generation, group.failure)
                self._close_to_clients(group.failure)
                break
        self.frontend.fail("was stopped")
        return None

    def _part(self, failure: RankFailure | None) -> None:
        """The generation is over. Before anything else takes its time, the engine hears of it, and clients what they lose."""
        if failure is not None:
            self._reports.failure(self.generation, failure)
        if self._change is not None and not self._attention.stopping and self._turn(self._change, failure):
            self._engines.send(Detach(self.generation))
        elif failure is not None:
            self._close_to_clients(failure)

    def _turn(self, change: Change, failure: RankFailure | None) -> bool:
        """To the change's next generation, if it has one; whether requests are still there to be kept for it."""
        lost = failure is not None and failure.kind == blame.ENGINE
        if not change.turn(f"{failure or ''}{', and with it every request' if lost else ''}"):
            self._end_change(Outcome.FAILED)
            return False
        self.reason = change.reason
        if change.back:
            self._enter(State.RECONFIGURING)
        return not lost

    def _end_change(self, outcome: Outcome | None = None, cause: str = "") -> None:
        self.reason = ""
        if self._change is not None:
            change, self._change = self._change, None
            over = change.end(outcome, cause)
            severity = {Outcome.CHANGED: "info", Outcome.FAILED: "error"}.get(over.outcome, "warning")
            self._reports.event(self.generation, severity, RECONFIGURE, over.words)

    def _close_to_clients(self, failure: RankFailure) -> None:
        self.frontend.fail(f"lost its ranks: {failure}")
        self._engines.send(Detach(self.generation, str(failure)))

    def _to_engine(self, message: Generate | Abort) -> None:
        self._engines.send(message)

    def _tell_phase(self, words: str) -> None:
        self._reports.event(self.generation, "info", RECONFIGURE, words)

    def _enter(self, entered: State, group: RankGroup | None = None) -> None:
        self.state = entered
        self._reports.state(entered, self.generation, self.reason, group)

    def _show(self, group: RankGroup | None, phase: str = "") -> None:
        """`phase`: what the ranks' board does not say."""
        doing = phase or (state.PHASES.get(group.phase, "") if group else "spawn")
        self._reports.progress(self.state, self.generation, self.reason, group, doing)
