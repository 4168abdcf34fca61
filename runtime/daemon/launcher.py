"""The ranks of one generation: born through the zygote, watched on their board, ended together.

Synchronous and torch-free. `poll()` never blocks; `fileno()` tells when somebody was born or died. What ranks write on the board
announces itself to nobody, so `poll()` wants to be called a few times a second besides.
"""

from __future__ import annotations

import os
import select
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from runtime.checkpoint.config import ModelShape
from runtime.daemon import blame
from runtime.daemon.blame import RankFailure
from runtime.daemon.settle import LaunchRefused, Machine, Placement, settle
from runtime.layout import stage_layers
from runtime.parallel.segment import plan_segment
from runtime.rank.board import Board, Phase
from runtime.rank.config import RankConfig
from runtime.rank.nursery import Channel, Exited, Forked, NurseryClosed, Suspension, Zygote
from runtime.spec import DeploymentSpec
from telemetry.records import RankInfo

__all__ = ["Endpoints", "LaunchRefused", "RankFailure", "RankGroup", "Zygote"]

START_STALL_S = 300.0  # a rank that shows no sign of life for so long while starting
ITEM_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
_POLL_S = 0.02


class Endpoints(Struct, frozen=True):
    """Where ranks connect to: a PUSH of the engine's for each, its PULL, the hub's PULL (empty: none).

    `store`: a path for torch.distributed's file store, which must not exist yet; empty: a temporary one.
    """

    plans: list[str]
    results: str
    telemetry: str = ""
    store: str = ""


@dataclass
class _Process:
    pid: int = 0
    pidfd: int = -1
    status: int | None = None  # how it ended; None: it lives, or is not born yet
    seen: tuple[int, ...] = ()  # its signs of life at the last look
    since: float = 0.0  # when they changed last, or when it had no work


class RankGroup:
    """All ranks of one generation of a deployment.

    `phase` is that of the rank furthest behind; READY once all are. `failure`, once set, stays: the first cause. Nothing is
    restarted here, and on a failure nothing is killed until `kill` is called.
    """

    def __init__(self, spec: DeploymentSpec, shape: ModelShape, placement: Placement, generation: int) -> None:
        self.spec, self.shape, self.placement, self.generation = spec, shape, placement, generation
        self.layout = spec.layout
        self.board = Board.create(self.layout.world_size)
        self.phase = Phase.SPAWNED
        self.failure: RankFailure | None = None
        self.kv_blocks = 0
        self.limiting_rank: int | None = None
        self.max_model_len = placement.max_model_len
        self._suspensions: list[Suspension] = []
        self._channel = Channel()
        self._processes = [_Process(since=time.monotonic()) for _ in range(self.layout.world_size)]
        self._leaving = self._killed = False
        self._deaf = False  # nothing more will be reported
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def launch(
        cls,
        spec: DeploymentSpec,
        shape: ModelShape,
        generation: int,
        endpoints: Endpoints,
        log_dir: Path | None,
        zygote: Zygote,
        machine: Machine | None = None,
    ) -> RankGroup:
        """Order every rank. Raises LaunchRefused before any process exists; a dead zygote is a `failure`, found by `poll`.

        `log_dir` gets a `rank-N.log` each; None: ranks write where we do. `machine` None: this one.
        """
        group = cls(spec, shape, settle(spec, shape, machine or Machine.here()), generation)
        if log_dir:
            log_dir.mkdir(parents=True, exist_ok=True)
        fds = [group.board.fd]
        store = ""
        if group.placement.transport == "shm":
            fds.append(group._create_segment())
        else:
            store = endpoints.store or group._temporary_store()
        try:
            for rank in range(group.layout.world_size):
                log = str(log_dir / f"rank-{rank}.log") if log_dir else ""
                zygote.fork(group._config(rank, endpoints, store, log), group._channel, fds)
        except NurseryClosed as closed:
            group.failure = RankFailure(blame.NURSERY, None, str(closed))
        finally:
            for fd in fds:
                os.close(fd)  # the zygote has its own, and the board is mapped
            group._channel.theirs.close()  # so that the channel ends when the last rank has
        return group

    def _temporary_store(self) -> str:
        self._scratch = tempfile.TemporaryDirectory(prefix="shardscope-")
        return f"{self._scratch.name}/store"

    def _create_segment(self) -> int:
        spec = self.spec
        itemsize = ITEM_SIZES[self.placement.dtype]
        plan = plan_segment(self.layout, self.shape, spec.max_num_batched_tokens, spec.max_num_seqs, itemsize)
        fd = os.memfd_create("shardscope-segment", os.MFD_CLOEXEC)
        os.ftruncate(fd, plan.size)
        return fd

    def _config(self, rank: int, endpoints: Endpoints, store: str, log: str) -> RankConfig:
        spec, placement = self.spec, self.placement
        return RankConfig(
            deployment=spec.named().name,
            generation=self.generation,
            rank=rank,
            layout=self.layout.asdict(),
            model=str(spec.model),
            device=placement.devices[rank],
            dtype=placement.dtype,
            transport=placement.transport,
            threads=placement.threads,
            cpus=placement.cpus[rank],
            spin=placement.spin,
            board_fd=-1,
            segment_fd=-1,
            store=store,
            plans=endpoints.plans[rank],
            results=endpoints.results,
            telemetry=endpoints.telemetry if spec.telemetry else "",
            log=log,
            max_num_seqs=spec.max_num_seqs,
            max_num_batched_tokens=spec.max_num_batched_tokens,
            max_model_len=placement.max_model_len,
            block_size=spec.block_size,
            kv_cache_bytes=spec.kv_cache_bytes,
            gpu_memory_utilization=spec.gpu_memory_utilization,
            enforce_eager=spec.enforce_eager,
            emulated=placement.emulated,
        )

    @property
    def ranks(self) -> list[RankInfo]:
        """Who they are; pid 0: not born yet."""
        stages = stage_layers(self.shape, self.layout.pp)
        infos: list[RankInfo] = []
        for rank, process in enumerate(self._processes):
            at = self.layout.coordinates(rank)
            layers = stages[at.pp]
            infos.append(
                RankInfo(
                    rank=rank,
                    **at._asdict(),
                    pid=process.pid,
                    device=self.placement.devices[rank],
                    first_layer=layers.start,
                    last_layer=layers.stop - 1,
                )
            )
        return infos

    @property
    def progress(self) -> float | None:
        """Share of the bytes loaded, from 0 to 1, while loading; None in other phases."""
        if self.loading is None:
            return None
        loaded, to_load = self.loading
        return min(1.0, loaded / to_load)

    @property
    def loading(self) -> tuple[int, int] | None:
        """Bytes that all ranks have loaded, and are to load; None in other phases."""
        to_load = sum(status.to_load for status in self.board.ranks)
        if self.phase != Phase.LOADING or not to_load:
            return None
        return sum(status.loaded for status in self.board.ranks), to_load

    @property
    def steps(self) -> int:
        """All that its ranks have done."""
        return sum(status.steps for status in self.board.ranks)

    @property
    def dead(self) -> bool:
        """No rank lives, and none will be born."""
        return self._deaf or all(process.status is not None for process in self._processes)

    @property
    def born(self) -> bool:
        """A rank was. Before, a group that is closed leaves nobody: the zygote makes no rank for a closed channel."""
        return any(process.pid for process in self._processes)

    def fileno(self) -> int:
        """Readable when `poll` has a birth or a death to tell; -1 after the end."""
        return self._channel.fileno()

    def poll(self) -> Phase:
        """Take in what happened since the last call: births, deaths, phases, standstill. Never blocks."""
        self._read_reports()
        if self.failure is None and not self._killed:
            if not self._leaving:
                self._advance()
            self._look_for_standstill(time.monotonic())
        return self.phase

    def take_suspensions(self) -> list[Suspension]:
        """Which ranks signals stopped, or let go on, since the last call."""
        taken, self._suspensions = self._suspensions, []
        return taken

    def wait(self, phase: Phase = Phase.READY, on_progress: Callable[[RankGroup], None] | None = None) -> bool:
        """Block until every rank has come to `phase`, or one failed: False. For callers without an event loop."""
        while self.poll() < phase and self.failure is None:
            if on_progress:
                on_progress(self)
            self._await_report(_POLL_S)
        return self.failure is None

    def send_signal(self, signum: int) -> None:
        """To every rank that lives. Exact: a pidfd cannot mean another process that got the same number."""
        for process in self._processes:
            if process.pidfd >= 0 and process.status is None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process.pidfd, signum)

    def leave(self) -> None:
        """From now on a rank that ends by itself, with exit code 0, does as it was told."""
        self._leaving = True

    def end(self) -> None:
        """SIGKILL every rank, without waiting. Never goes through a collective: peers may hang in one."""
        self._killed = True
        self.send_signal(signal.SIGKILL)

    def kill(self, timeout: float = 5.0) -> list[int]:
        """End every rank and wait for it; gives the pids that `timeout` seconds did not free of an uninterruptible call."""
        self.end()
        self._await_deaths(timeout)
        left = [process.pid for process in self._processes if process.pid and process.status is None and not self.dead]
        self.close()
        return left

    def stop(self, grace: float = 1.0) -> list[int]:
        """For ranks that were told by a plan to stop: give them `grace` seconds to leave by themselves, then kill."""
        self.leave()
        self._await_deaths(grace)
        return self.kill()

    def close(self) -> None:
        """Let go. Ranks that still live, or are yet to be born, are killed by the zygote, which sees the channel closed."""
        self._channel.close()
        self._deaf = True
        for process in self._processes:
            if process.pidfd >= 0:
                os.close(process.pidfd)
                process.pidfd = -1
        if self._scratch:
            self._scratch.cleanup()

    def _await_deaths(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self.poll()
        while not self.dead and self.born and (rest := deadline - time.monotonic()) > 0:
            self._await_report(rest)
            self.poll()

    def _await_report(self, timeout: float) -> None:
        poller = select.poll()
        poller.register(self, select.POLLIN)
        poller.poll(timeout * 1000)

    def _read_reports(self) -> None:
        deaths: list[tuple[int, int]] = []
        while not self._deaf:
            try:
                message = self._channel.read()
            except NurseryClosed as closed:
                if not self.dead and self.failure is None and not deaths:
                    self.failure = RankFailure(blame.NURSERY, None, str(closed))
                self._deaf = True
                break
            if message is None:
                break
            report, fds = message
            process = self._processes[report.rank]
            if isinstance(report, Forked):
                process.pid, process.pidfd = report.pid, fds[0]
                if self._killed:
                    self.send_signal(signal.SIGKILL)
            elif isinstance(report, Suspension):
                self._suspensions.append(report)
            elif isinstance(report, Exited):
                process.status = report.status
                if report.status != 0 or not self._leaving:
                    deaths.append((report.rank, report.status))
            else:
                process.status = 1
                self.failure = self.failure or RankFailure(blame.NURSERY, report.rank, report.error)
        if deaths and self.failure is None and not self._killed:
            rank, status = blame.first_death(deaths, self.board.ranks)
            self.failure = blame.death(rank, status, self.layout, self.board.ranks)

    def _advance(self) -> None:
        statuses = self.board.ranks
        if any(status.phase == Phase.FAILED for status in statuses):
            return  # no phase to have come to: its death is about to be reported
        self.phase = Phase(min(status.phase for status in statuses))
        if self.phase == Phase.WAITING_KV and not self.kv_blocks:
            possible = [status.kv_blocks_possible for status in statuses]
            self.kv_blocks = min(possible)
            self.limiting_rank = possible.index(self.kv_blocks)
            held = max(0, self.kv_blocks - 1) * self.spec.block_size  # no sequence ever gets block 0
            if (self.spec.max_model_len or 1) > held:
                self._refuse_room(held)
                return
            self.max_model_len = min(self.placement.max_model_len, held)
            for status in statuses:
                status.kv_blocks = self.kv_blocks

    def _refuse_room(self, held: int) -> None:
        rank = self.limiting_rank or 0
        asked = f"one sequence of {self.spec.max_model_len} tokens" if self.spec.max_model_len else "one block"
        self.failure = RankFailure(
            blame.NO_ROOM,
            rank,
            f"{blame.name(rank, self.layout)} has KV memory for {held} tokens, not for {asked}: "
            "lower --max-model-len, or raise --gpu-memory-utilization or --kv-cache-bytes",
        )

    def _look_for_standstill(self, now: float) -> None:
        ready = self.phase >= Phase.READY
        limit = self.spec.stall_timeout_s if ready else START_STALL_S
        for rank, (process, status) in enumerate(zip(self._processes, self.board.ranks, strict=True)):
            seen = (status.phase, status.progress, status.loaded)
            has_work = status.plans > status.steps if ready else status.phase == self.phase
            if seen != process.seen or not (has_work or self._stopped(rank)):
                process.seen, process.since = seen, now
            elif now - process.since > limit:
                guilty = blame.culprit(rank, self.layout, self.board.ranks)
                stopped = self._stopped(guilty)
                self.failure = blame.stall(rank, guilty, limit, stopped, self.layout, self.board.ranks)
                return

    def _stopped(self, rank: int) -> bool:
        """Whether a signal or a debugger stopped the rank's process."""
        process = self._processes[rank]
        if not process.pid or process.status is not None:
            return False
        try:
            stat = Path(f"/proc/{process.pid}/stat").read_bytes()
        except OSError:
            return False
        # the name, in parentheses, may hold anything: the state follows the last one
        return stat[stat.rindex(b")") + 2 : stat.rindex(b")") + 3] in (b"T", b"t")
