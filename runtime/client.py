"""Talks to a daemon: for the command line, the dashboard and tests. Synchronous, with deadlines, torch-free."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import zmq

from profiles.report import RecordingProgress, RecordingReport
from runtime.control import (
    Answer,
    Begun,
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
    Reply,
    Request,
    Status,
    StopDeployment,
    StopRecording,
)
from runtime.run_dir import RunDir
from runtime.spec import DeploymentSpec
from telemetry.snapshot import Snapshot

PATIENCE_S = 10.0
GLANCE_S = 0.2  # between two looks at whether the answer is still wanted, and whether the daemon lives
STOP_S = 60.0  # a drain, and the death of large processes


class DaemonError(Exception):
    """The daemon refused or failed. `usage`: what was asked cannot be."""

    def __init__(self, message: str, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


class NoDaemon(DaemonError):
    """Nobody runs there, or it does not answer."""


class GivenUp(Exception):
    """Whoever asked does not want the answer any more. What was asked goes on."""


class ControlClient:
    """One connection, for one thread. Raises NoDaemon when no daemon runs in the directory; each call raises DaemonError."""

    def __init__(self, run_dir: Path | None = None, given_up: Callable[[], bool] = lambda: False) -> None:
        """`given_up`: asked while a call waits; once it says so the call raises GivenUp."""
        self.run_dir = RunDir(run_dir)
        self._given_up = given_up
        if not self.run_dir.occupied:
            raise NoDaemon(f"no daemon runs in {self.run_dir.path}: start one with `shardscope daemon`")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(self.run_dir.control)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Reply).decode

    def status(self) -> tuple[DaemonInfo, Snapshot]:
        """Who the daemon is, and the state of everything."""
        ok = self._last(self._ask(Status(), PATIENCE_S))
        if ok.daemon is None or ok.snapshot is None:
            raise DaemonError("the daemon answered something else than was asked")
        return ok.daemon, ok.snapshot

    def snapshot(self) -> Snapshot:
        return self.status()[1]

    def specs(self) -> dict[str, dict[str, Any]]:
        """By name, the fields of each deployment's `DeploymentSpec` as it serves now."""
        return self._last(self._ask(Status(), PATIENCE_S)).specs

    def deploy(self, spec: DeploymentSpec, wait: bool = True, deadline_s: float | None = None) -> Iterator[Progress]:
        """Yields where the start is; ends when the deployment is READY (`wait` False: when the start has begun).

        Raises DaemonError with the root cause. `deadline_s` None: as long as the daemon lives.
        """
        fields = spec.model_dump(mode="json") | {"model": str(spec.model.absolute())}
        for body in self._ask(Deploy(fields, wait), deadline_s):
            if isinstance(body, Progress):
                yield body

    def reconfigure(
        self, name: str, fields: dict[str, Any], wait: bool = True, deadline_s: float | None = None
    ) -> Iterator[Progress | Changed]:
        """Change `fields` of a live deployment's spec. Yields where it is, then how it ended (`wait` False: nothing).

        Raises DaemonError: at once for what cannot be, after a `Changed` for what was tried and rolled back.
        """
        for body in self._ask(Reconfigure(name, fields, wait), deadline_s):
            if isinstance(body, Progress | Changed):
                yield body

    def stop(self, name: str, now: bool = False) -> None:
        """Drain and stop a deployment; returns when its processes are gone."""
        self._last(self._ask(StopDeployment(name, now), STOP_S))

    def record(
        self,
        name: str,
        path: Path,
        seconds: float | None = None,
        wait: bool = True,
        rotate_bytes: int | None = None,
        rotate_s: float | None = None,
    ) -> Iterator[Begun | RecordingReport]:
        """Have the daemon record a deployment to `path`, for so many seconds or until `stop_recording`. Yields that it has begun,
        then, unless `wait` is False, how it ended; the recording does not depend on anybody waiting.

        From `rotate_bytes` or `rotate_s` on a file is followed by another, `<path>-2`, which stands alone.
        """
        for body in self._ask(Record(name, str(path.absolute()), seconds, wait, rotate_bytes, rotate_s), None):
            if isinstance(body, Begun | RecordingReport):
                yield body

    def stop_recording(self, name: str, attachments: dict[str, bytes] | None = None) -> RecordingReport:
        """End the recording of a deployment, with JSON documents in it; returns when its file is whole."""
        for body in self._ask(StopRecording(name, attachments or {}), STOP_S):
            if isinstance(body, RecordingReport):
                return body
        raise DaemonError("the daemon answered something else than was asked")

    def recordings(self) -> list[RecordingProgress]:
        """Those under way."""
        return self._last(self._ask(ListRecordings(), PATIENCE_S)).recordings

    def close(self) -> None:
        self._socket.close()
        self._context.destroy()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _last(self, bodies: Iterator[Answer]) -> Ok:
        for body in bodies:
            if isinstance(body, Ok):
                return body
        raise NoDaemon("the daemon did not answer")

    def _ask(self, command: Command, deadline_s: float | None) -> Iterator[Answer]:
        request = Request(uuid.uuid4().hex, command)
        self._socket.send(self._encode(request))
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        while True:
            if self._given_up():
                raise GivenUp
            left = GLANCE_S if deadline is None else min(GLANCE_S, deadline - time.monotonic())
            if left < 0.001:
                raise NoDaemon(f"the daemon in {self.run_dir.path} did not answer within {deadline_s:g} s")
            if not self._socket.poll(int(left * 1000)):
                if not self.run_dir.occupied:
                    raise NoDaemon(f"the daemon in {self.run_dir.path} ended")
                continue
            reply = self._decode(self._socket.recv())
            if reply.id != request.id:
                continue  # the answer to a question that we gave up
            if isinstance(reply.body, Failed):
                raise DaemonError(reply.body.error, reply.body.usage)
            yield reply.body
            if isinstance(reply.body, Ok):
                return
