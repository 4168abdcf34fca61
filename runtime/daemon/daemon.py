"""The daemon: deployments, HTTP, control and telemetry on one event loop, in one process without torch.

It ends on SIGTERM or SIGINT: admits nothing more, drains, stops; on a second one at once. However it ends, the processes that it
started end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import uvicorn
import zmq
import zmq.asyncio
from pydantic import ValidationError

from profiles.recording import Policy
from runtime.checkpoint.config import read_shape
from runtime.checkpoint.tokenizer import Tokenizer
from runtime.control import (
    Begun,
    Body,
    Changed,
    Command,
    DaemonInfo,
    Deploy,
    Failed,
    ListRecordings,
    Ok,
    Progress,
    Reconfigure,
    Record,
    Status,
    StopDeployment,
    StopRecording,
)
from runtime.daemon.control import ControlServer
from runtime.daemon.house import DRAIN_S, House
from runtime.daemon.http.app import create_app
from runtime.daemon.recordings import Recordings
from runtime.daemon.state import OVER, State
from runtime.daemon.supervisor import Supervisor
from runtime.frontend import Frontend
from runtime.rank.nursery import Zygote
from runtime.run_dir import RunDir
from runtime.spec import DeploymentSpec, complaints
from telemetry import prometheus
from telemetry.endpoints import HubEndpoints
from telemetry.hub import Hub, Public
from telemetry.records import DeploymentRecord

HTTP_GRACE_S = 5  # for answers under way, once nothing is left to say in them

log = logging.getLogger(__name__)


class PortTaken(Exception):
    """The HTTP address cannot be bound; the message names it and says why."""


def bind_http(address: str) -> socket.socket:
    """`HOST:PORT`, bound and kept: nobody can take it before it is served. Raises PortTaken, and ValueError for no address."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"'{address}' is no address: write HOST:PORT, as 127.0.0.1:8000")
    host = host.strip("[]")
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # connections inherit it; asyncio sets it only on sockets it made, and a token would wait 40 ms for an acknowledgement
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        bound.bind((host, int(port)))
    except OSError as error:
        bound.close()
        raise PortTaken(f"cannot serve HTTP at {address}: {error.strerror}; choose another with --http") from error
    return bound


class Daemon:
    """Owned by one event loop, of the main thread: what it starts dies with that thread."""

    def __init__(self, run_dir: RunDir, http: socket.socket, public: Public | None = None) -> None:
        """`run_dir` is acquired, `http` bound. `public`: where viewers on other machines find telemetry."""
        host, port = http.getsockname()[:2]
        self._endpoints = HubEndpoints.under(run_dir.path)
        self.info = DaemonInfo(
            pid=os.getpid(),
            http=f"http://{f'[{host}]' if ':' in host else host}:{port}",
            run_dir=str(run_dir.path),
            started=int(time.time()),
            telemetry=self._endpoints.snapshots,
        )
        self._run_dir, self._http, self._public = run_dir, http, public
        self._deployments: dict[str, tuple[Supervisor, asyncio.Task[None]]] = {}
        self._generations: dict[str, int] = {}  # by name, of deployments that were stopped: a name's launches are counted on
        self._number = 0
        self._zygote: Zygote | None = None
        self._signals = 0
        self._ending = asyncio.Event()

    async def run(self, ready: int = -1) -> None:
        """Serve until told to end. `ready`: a file descriptor that gets a line when the daemon can be asked."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._told_to_end)
        context = zmq.asyncio.Context()
        async with Hub(self._endpoints, public=self._public) as hub:
            self._house = House(context, hub, self._living_zygote, self._run_dir.sockets, self._run_dir.logs, DRAIN_S)
            self._recordings = Recordings(hub)
            self._living_zygote()  # it imports while nobody waits
            control = ControlServer(context, self._run_dir.control, self._handle)
            server = _Server(self._app(hub), self._http)
            serving = asyncio.create_task(server.serve())
            self._run_dir.write_info(self.info)
            if ready >= 0:
                with open(ready, "w") as told:
                    told.write("ready\n")
            log.info("pid %d serves %s, run directory %s", self.info.pid, self.info.http, self.info.run_dir)
            await asyncio.wait({serving, asyncio.create_task(self._ending.wait())}, return_when=asyncio.FIRST_COMPLETED)
            await self._end_deployments()
            await self._recordings.close()
            server.should_exit = True
            await serving
            await control.drain()
            control.close()
        if self._zygote is not None:
            self._zygote.close()
        context.destroy()
        self._run_dir.release()

    def _told_to_end(self) -> None:
        self._signals += 1
        self._ending.set()
        log.info("draining: a second signal stops at once" if self._signals == 1 else "stopping at once")
        for supervisor, _life in self._deployments.values():
            supervisor.stop(now=self._signals > 1)

    async def _end_deployments(self) -> None:
        lives = [life for _supervisor, life in self._deployments.values()]
        for supervisor, _life in self._deployments.values():
            supervisor.stop(now=self._signals > 1)
        if lives:
            await asyncio.wait(lives)

    def _living_zygote(self) -> Zygote:
        if self._zygote is None or not self._zygote.alive:
            if self._zygote is not None:
                self._zygote.close()
            self._zygote = Zygote(log=self._run_dir.logs / "zygote.log")
        return self._zygote

    def _app(self, hub: Hub) -> uvicorn.Config:
        def frontends() -> Mapping[str, Frontend]:
            return {name: supervisor.frontend for name, (supervisor, _life) in self._deployments.items()}

        app = create_app(frontends, lambda: prometheus.render(hub.snapshot()), alive=lambda: True)
        return uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=HTTP_GRACE_S, server_header=False
        )

    async def _handle(self, command: Command) -> AsyncIterator[Body]:
        match command:
            case Status():
                specs = {name: each.spec.model_dump(mode="json") for name, (each, _life) in self._deployments.items()}
                yield Ok(self.info, self._house.hub.snapshot(), specs)
            case StopDeployment():
                yield await self._stop(command)
            case Deploy():
                async for body in self._deploy(command):
                    yield body
            case Reconfigure():
                async for news in self._reconfigure(command):
                    yield news
            case ListRecordings():
                yield Ok(recordings=self._recordings.under_way())
            case Record() | StopRecording():
                async for answer in self._record(command):
                    yield answer

    async def _stop(self, command: StopDeployment) -> Ok | Failed:
        try:
            self._named(command.name)
        except ValueError as error:
            return Failed(str(error), usage=True)
        await self._forget(command.name, command.now)
        return Ok()

    def _named(self, name: str) -> Supervisor:
        """Raises ValueError when nobody has the name."""
        if name not in self._deployments:
            raise ValueError(f"no deployment '{name}'; deployed: {', '.join(self._deployments) or 'none'}")
        return self._deployments[name][0]

    async def _reconfigure(self, command: Reconfigure) -> AsyncIterator[Progress | Changed | Ok | Failed]:
        try:
            supervisor = self._named(command.name)
            record = supervisor.record
            change = supervisor.reconfigure(command.fields)
        except ValueError as error:
            yield Failed(_words(error), usage=True)
            return
        while command.wait and change.over is None:
            record = await supervisor.next_record(record)
            if change.over is None:
                yield _progress(record)
        if command.wait and change.over is not None:
            yield change.over
            if not change.over.served:
                yield Failed(change.over.words)
                return
        yield Ok()

    async def _record(self, command: Record | StopRecording) -> AsyncIterator[Body]:
        try:
            if isinstance(command, Record):
                supervisor = self._named(command.name)
                if supervisor.record is None:
                    raise ValueError(f"'{command.name}' has not begun to start")
                policy = Policy(
                    rotate_bytes=command.rotate_bytes or Policy.rotate_bytes, rotate_s=command.rotate_s or Policy.rotate_s
                )
                await self._recordings.start(supervisor.spec, supervisor.record, Path(command.path), command.seconds, policy)
                yield Begun(command.path)
            else:
                self._recordings.stop(command.name, command.attachments)
            if isinstance(command, StopRecording) or command.wait:
                yield await self._recordings.over(command.name)
        except (ValueError, OSError) as error:
            yield Failed(str(error), usage=True)
            return
        yield Ok()

    async def _forget(self, name: str, now: bool) -> None:
        supervisor, life = self._deployments[name]
        supervisor.stop(now)
        await asyncio.wait([life])
        self._recordings.stop(name)
        if self._deployments.get(name, (None,))[0] is supervisor:
            del self._deployments[name]
            self._generations[name] = supervisor.generation

    async def _deploy(self, command: Deploy) -> AsyncIterator[Progress | Ok | Failed]:
        try:
            supervisor = await self._admit(command)
        except (ValueError, OSError) as error:
            yield Failed(_words(error), usage=True)
            return
        record = None
        while command.wait:
            record = await supervisor.next_record(record)
            if record.state == State.READY:
                break
            if record.state in OVER:
                yield Failed(record.reason or "it was stopped while it started")
                return
            yield _progress(record)
        yield Ok()

    async def _admit(self, command: Deploy) -> Supervisor:
        """A new deployment, its life begun. Raises ValueError (CheckpointError, LaunchRefused, ...) for what cannot be."""
        spec = DeploymentSpec.model_validate(command.spec).named()
        self._check_name(spec.name)
        if spec.name in self._deployments:
            await self._forget(spec.name, now=True)  # it had FAILED
        shape = read_shape(spec.model)
        # a large vocabulary takes a second to read
        tokenizer = await asyncio.to_thread(Tokenizer.from_directory, spec.model)
        self._check_name(spec.name)  # again: another may have come meanwhile
        self._number += 1
        generation = self._generations.get(spec.name, 0)
        supervisor = Supervisor(spec, shape, tokenizer, self._number, self._house, generation)
        self._deployments[spec.name] = supervisor, asyncio.create_task(supervisor.run())
        return supervisor

    def _check_name(self, name: str) -> None:
        if self._ending.is_set():
            raise ValueError("the daemon is ending: it deploys nothing more")
        state = self._deployments[name][0].state if name in self._deployments else State.FAILED
        if state != State.FAILED:
            raise ValueError(f"a deployment '{name}' exists and is {state}: stop it first, or give another name with --name")


class _Server(uvicorn.Server):
    """Uvicorn in a loop that has an owner: signals are the daemon's."""

    def __init__(self, config: uvicorn.Config, bound: socket.socket) -> None:
        super().__init__(config)
        self._bound = bound

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve(sockets or [self._bound])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _progress(record: DeploymentRecord) -> Progress:
    r = record
    return Progress(r.state, r.generation, r.phase, r.progress, r.loaded, r.to_load, r.phase_ns, r.reason)


def _words(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(complaints(error).values())
    return str(error)


def _allow_files() -> None:
    """As many open files as the administrator grants: each rank and each stream of tokens is one."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(http: str, place: RunDir, ready: int = -1, public: Public | None = None) -> None:
    """The daemon's whole life, in a directory that was acquired.

    Raises PortTaken, EndpointTaken and ValueError before anything is started.
    """
    bound = bind_http(http)
    _allow_files()

    async def run() -> None:
        await Daemon(place, bound, public).run(ready)

    asyncio.run(run())
