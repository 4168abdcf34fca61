"""One deployment's life in the daemon: start, serve, notice a failure, rebuild, drain, stop.

The ranks of a generation stand or fall together. The engine outlives generations. Whatever ends a generation, clients are told
first, then processes are killed, then the next generation is tried.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import zmq.asyncio

from runtime.checkpoint.config import ModelShape
from runtime.checkpoint.tokenizer import Tokenizer
from runtime.daemon import blame
from runtime.daemon.blame import RankFailure
from runtime.daemon.engine_link import EngineLink
from runtime.daemon.frontend import DeploymentFrontend
from runtime.daemon.launcher import Endpoints, LaunchRefused, RankGroup
from runtime.daemon.reports import Reports
from runtime.daemon.restarts import Restarts
from runtime.daemon.settle import Machine, settle
from runtime.engine.messages import Attach, Bind, Detach, EngineConfig, Stop
from runtime.protocol import Abort, Generate
from runtime.rank.board import Phase
from runtime.rank.nursery import Zygote
from runtime.spec import DeploymentSpec
from telemetry.hub import Hub
from telemetry.records import DeploymentRecord

log = logging.getLogger(__name__)

DRAIN_S = 10.0
ENGINE_START_S = 30.0
GONE_S = 5.0  # for killed processes to be gone
STACKS_S = 0.2  # for ranks that hang to write their stacks
_START_TICK_S = 0.1
_TICK_S = 0.5


class State(StrEnum):
    STARTING = "STARTING"
    READY = "READY"
    DRAINING = "DRAINING"
    RESTARTING = "RESTARTING"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


OVER = (State.FAILED, State.STOPPED)
_PHASES = {
    Phase.SPAWNED: "spawn",
    Phase.CONNECTING: "connect",
    Phase.LOADING: "load",
    Phase.WAITING_KV: "kv",
    Phase.WARMING: "warm-up",
}


@dataclass(frozen=True)
class House:
    """What the daemon lends to each of its deployments. `sockets` holds their ipc files: its path is short."""

    context: zmq.asyncio.Context
    hub: Hub
    zygote: Callable[[], Zygote]
    sockets: Path
    logs: Path
    drain_s: float = DRAIN_S


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
        self.frontend = DeploymentFrontend(spec.name, shape, tokenizer, placement.max_model_len, self._to_engine)
        self._house, self._number = house, number
        self._reports = Reports(house.hub, spec, placement)
        self._restarts = Restarts()
        self._engine: EngineLink | None = None
        self._engines = 0
        self._sampling: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._stopping = self._stop_now = False

    async def next_record(self, after: DeploymentRecord | None) -> DeploymentRecord:
        """The first record that differs from `after`."""
        return await self._reports.next(after)

    def stop(self, now: bool = False) -> None:
        """Finish what runs, within the drain's time, then end; `now`: end at once."""
        self._stopping = True
        self._stop_now |= now
        self._woken.set()

    async def run(self) -> None:
        """From the first process until it was told to stop. A deployment that FAILED waits for that without any process."""
        try:
            while not self._stopping:
                self.generation += 1
                failure = await self._generation()
                if failure is None:
                    break
                again = self._restarts.failed(time.monotonic(), ready=self.state == State.READY)
                self.reason = str(failure)
                self._reports.failure(self.generation, failure)
                if not again:
                    await self._stand_failed()
                    break
                self._enter(State.RESTARTING)
        except Exception as error:
            # a fault of ours: no process shall be left without its supervisor, nor a state that is not true
            log.exception("the supervisor of %s failed", self.spec.name)
            self.reason = f"internal error: {type(error).__name__}: {error}"
            self.frontend.fail(self.reason)
            await self._stand_failed()
        finally:
            await self._end_engine()
        self._enter(State.STOPPED)

    async def _stand_failed(self) -> None:
        await self._end_engine()
        self._enter(State.FAILED)
        while not self._stopping:
            await self._woken.wait()
            self._woken.clear()

    async def _generation(self) -> RankFailure | None:
        """One generation, from its sockets to the death of its last rank. None: it was told to stop."""
        sockets = self._house.sockets / f"{self._number}-{self.generation}"
        group: RankGroup | None = None
        failure: RankFailure | None = None
        try:
            sockets.mkdir()
            self._show(None)
            engine = await self._living_engine()
            endpoints = self._endpoints(sockets)
            failure = await self._bind(engine, endpoints)
            if failure is None and not self._stopping:
                logs = self._house.logs / self.spec.name
                group = RankGroup.launch(self.spec, self.shape, self.generation, endpoints, logs, self._house.zygote())
                asyncio.get_running_loop().add_reader(group.fileno(), self._woken.set)
                self._reports.chosen(self.generation)
                failure = await self._watch(group, engine)
        except (LaunchRefused, OSError) as error:
            failure = RankFailure(blame.NURSERY, None, str(error))
        finally:
            if failure is not None:
                # clients first: they are told within milliseconds, whatever state ranks and engine are in
                self._close_to_clients(failure)
            if self._sampling is not None:
                self._sampling.cancel()
            if group is not None:
                await self._bury(group, stalled=failure is not None and failure.kind == blame.STALLED)
            shutil.rmtree(sockets, ignore_errors=True)
        return failure

    async def _bind(self, engine: EngineLink, endpoints: Endpoints) -> RankFailure | None:
        spec = self.spec
        engine.send(
            Bind(
                generation=self.generation,
                layout=spec.layout.asdict(),
                plans=endpoints.plans,
                results=endpoints.results,
                max_num_seqs=spec.max_num_seqs,
                max_num_batched_tokens=spec.max_num_batched_tokens,
                block_size=spec.block_size,
                slots=spec.slots,
                prefix_caching=spec.enable_prefix_caching,
                eos_token_ids=list(self.shape.eos_token_ids),
            )
        )
        deadline = time.monotonic() + ENGINE_START_S
        while engine.bound != self.generation and not self._stopping:
            if not engine.alive or time.monotonic() > deadline:
                return RankFailure(blame.ENGINE, None, engine.epitaph())
            await self._wait(_TICK_S)
        return None

    async def _watch(self, group: RankGroup, engine: EngineLink) -> RankFailure | None:
        while not self._stopping:
            phase = group.poll()
            if group.failure is not None:
                return group.failure
            if not engine.alive:
                return RankFailure(blame.ENGINE, None, engine.epitaph())
            if phase < Phase.READY:
                self._show(group)
                await self._wait(_START_TICK_S)
            else:
                if self.state != State.READY:
                    engine.send(Attach(self.generation, group.kv_blocks, group.max_model_len))
                    self._serve(group)
                await self._wait(_TICK_S)
        return await self._drain(group, engine)

    async def _drain(self, group: RankGroup, engine: EngineLink) -> RankFailure | None:
        """Let the engine finish, or end all in the end. A failure meanwhile is told to clients, and the stop goes on."""
        self.frontend.close("is being stopped")
        self._enter(State.DRAINING, group)
        group.leave()
        engine.send(Stop(now=self._stop_now))
        deadline = time.monotonic() + self._house.drain_s
        while engine.alive and not engine.drained and not self._stop_now and time.monotonic() < deadline:
            await self._wait(min(_TICK_S, max(0.0, deadline - time.monotonic())))
            group.poll()
            if group.failure is not None:
                self._reports.failure(self.generation, group.failure)
                self._close_to_clients(group.failure)
                break
        self.frontend.fail("was stopped")
        return None

    def _serve(self, group: RankGroup) -> None:
        self._restarts.ready()
        self.reason = ""
        self.frontend.open(group.max_model_len)
        self._reports.memory(group)
        self._sampling = asyncio.create_task(self._reports.watch_devices(group))
        self._enter(State.READY, group)

    def _close_to_clients(self, failure: RankFailure) -> None:
        self.frontend.fail(f"lost its ranks: {failure}")
        self._to_engine(Detach(self.generation, str(failure)))

    async def _bury(self, group: RankGroup, stalled: bool) -> None:
        """No rank survives its generation. A hang's stacks go to the ranks' logs first."""
        loop = asyncio.get_running_loop()
        if stalled:
            group.send_signal(signal.SIGUSR1)
            await asyncio.sleep(STACKS_S)
        if self._stopping and self._engine is not None and self._engine.drained:
            await self._until_dead(group, 1.0)  # they have been told
        group.end()
        await self._until_dead(group, GONE_S)
        loop.remove_reader(group.fileno())
        left = group.kill(timeout=0)
        if left:
            self._reports.event(self.generation, "error", "undead", f"killed but not gone, in an uninterruptible call: {left}")

    async def _until_dead(self, group: RankGroup, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        group.poll()
        while not group.dead and group.born and (rest := deadline - time.monotonic()) > 0:
            await self._wait(rest)
            group.poll()

    async def _living_engine(self) -> EngineLink:
        if self._engine is None or not self._engine.alive:
            self._engines += 1
            logs = self._house.logs / self.spec.name
            logs.mkdir(parents=True, exist_ok=True)
            control = f"ipc://{self._house.sockets / f'{self._number}e{self._engines}'}"
            telemetry = self._house.hub.endpoints.records if self.spec.telemetry else ""
            config = EngineConfig(self.spec.name, control, telemetry, log="")
            old = self._engine
            self._engine = EngineLink(self._house.context, config, logs / "engine.log", self.frontend.deliver, self._woken.set)
            if old is not None:
                await old.close()
        return self._engine

    async def _end_engine(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.close()

    def _to_engine(self, message: Generate | Abort | Detach) -> None:
        if self._engine is not None:
            self._engine.send(message)

    def _endpoints(self, sockets: Path) -> Endpoints:
        return Endpoints(
            plans=[f"ipc://{sockets / str(rank)}" for rank in range(self.spec.layout.world_size)],
            results=f"ipc://{sockets / 'r'}",
            telemetry=self._house.hub.endpoints.records,
            store=str(sockets / "store"),
        )

    def _enter(self, state: State, group: RankGroup | None = None) -> None:
        self.state = state
        self._reports.state(state, self.generation, self.reason, group)

    def _show(self, group: RankGroup | None) -> None:
        phase = _PHASES.get(group.phase, "") if group else "spawn"
        self._reports.progress(self.state, self.generation, self.reason, group, phase)

    async def _wait(self, timeout: float) -> None:
        """Until something happened, or `timeout` seconds: what ranks write on their board announces itself to nobody."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._woken.wait()
        self._woken.clear()
