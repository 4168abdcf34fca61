"""One engine process and the socket to it.

The daemon binds a DEALER, to which exactly one engine connects: what is sent before it has come waits for it. The process gets
its `EngineConfig` as JSON in its arguments and ends with the daemon.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from runtime import child
from runtime.daemon.blame import exit_words
from runtime.engine.messages import (
    ALIVE_S,
    Alive,
    Attach,
    Bind,
    Bound,
    Detach,
    Drained,
    EngineConfig,
    FromEngine,
    Pause,
    Paused,
    Replayed,
    Stop,
)
from runtime.protocol import Abort, Generate, Outputs

ENGINE_MODULE = "runtime.engine.process"
HIGH_WATER = 100_000  # messages; the engine sends one a step
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Outputs | FromEngine).decode


class EngineLink:
    """The newest generation that the engine opened sockets for (`bound`), came to rest on (`paused`), goes on with (`replayed`).

    `on_change` is called whenever an attribute changes.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        config: EngineConfig,
        log: Path,
        on_outputs: Callable[[Outputs], None],
        on_change: Callable[[], None],
        module: str = ENGINE_MODULE,
    ) -> None:
        """Start the process; on the loop of the daemon's main thread. Raises OSError and zmq.ZMQError."""
        self.bound = self.paused = self.replayed = 0
        self.drained = False
        self.alive = True
        self.silent_s = 0.0  # since it was heard last; 0 before it was heard first
        self._heard = False
        self._on_outputs, self._on_change, self._log, self._control = on_outputs, on_change, log, config.control
        self._socket: zmq.asyncio.Socket = context.socket(zmq.DEALER)
        self._socket.set_hwm(HIGH_WATER)
        self._socket.linger = 0
        self._socket.bind(config.control)
        with log.open("ab") as output:
            self._process = child.start(module, msgspec.json.encode(config).decode(), output=output)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._on_death)
        self._tasks = (asyncio.create_task(self._listen()), asyncio.create_task(self._count_silence()))

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Generate | Abort | Attach | Bind | Pause | Detach | Stop) -> None:
        """In order, without waiting. To a dead engine: nothing happens."""
        if self.alive:
            self._socket.send(_encode(message))

    def epitaph(self) -> str:
        """How it ended, with the last line of its log."""
        last = ""
        with suppress(OSError, IndexError):
            last = self._log.read_text(errors="replace").strip().splitlines()[-1]
        status = self._process.returncode
        ended = exit_words(status) if status is not None else f"stands still, {self.silent_s:g} s without a sign of life"
        return f"the engine {ended}{': ' + last if last else ''}"

    async def close(self, timeout: float = 5.0) -> None:
        """SIGKILL, if it lives, and let go."""
        self._loop.remove_reader(self._pidfd)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.close(self._pidfd)
        self.alive = False
        for task in self._tasks:
            task.cancel()
        self._socket.close(linger=0)
        Path(self._control.removeprefix("ipc://")).unlink(missing_ok=True)
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, timeout)

    def _on_death(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._process.wait()
        self.alive = False
        self._on_change()

    async def _listen(self) -> None:
        while True:
            message = _decode(await self._socket.recv())
            self._heard, self.silent_s = True, 0.0
            match message:
                case Outputs():
                    self._on_outputs(message)
                    continue
                case Alive():
                    continue
                case Bound():
                    self.bound = message.generation
                case Paused():
                    self.paused = message.generation
                case Replayed():
                    self.replayed = message.generation
                case Drained():
                    self.drained = True
            self._on_change()

    async def _count_silence(self) -> None:
        """In turns of our own loop, not by the clock: when it was we who stood still, the engine is not to blame."""
        while True:
            await asyncio.sleep(2 * ALIVE_S)
            if self._heard:
                self._heard = False
            elif self.bound:
                self.silent_s += 2 * ALIVE_S
