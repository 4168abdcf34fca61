"""The engine's process: requests and orders from the daemon, plans to the ranks, tokens back.

`python -m runtime.engine.process CONFIG_JSON`. It ends with the daemon, and keeps every request while ranks are rebuilt.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from typing import assert_never

import msgspec
import zmq

from runtime import child
from runtime.engine.core import Engine
from runtime.engine.messages import (
    ALIVE_S,
    Alive,
    Attach,
    Bind,
    Bound,
    Detach,
    Drained,
    EngineConfig,
    Pause,
    Paused,
    Replayed,
    Stop,
)
from runtime.engine.ranks import RankSockets
from runtime.protocol import FINISH_ABORT, Abort, Generate, Outputs, TokensOut
from telemetry.emitter import Emitter
from telemetry.records import MAX_GAPS, EngineRecord, Record, RequestRecord

Inbound = Generate | Abort | Bind | Attach | Pause | Detach | Stop

_decode = msgspec.msgpack.Decoder(Inbound).decode
_encode = msgspec.msgpack.Encoder().encode


class EngineProcess:
    """One event loop around an `Engine`."""

    def __init__(self, config: EngineConfig) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._control = self._context.socket(zmq.DEALER)
        self._control.sndhwm = self._control.rcvhwm = 0
        self._control.connect(config.control)
        self._emitter = Emitter(config.telemetry, config.deployment, "engine:0")
        self._engine = Engine(config.deployment, config.max_queue)
        self._poller = zmq.Poller()
        self._poller.register(self._control, zmq.POLLIN)
        self._ranks: RankSockets | None = None
        self._bind: Bind | None = None
        self._attached = False
        self._paused = False
        self._owed: Paused | Replayed | None = None  # the news that the supervisor waits for
        self._stopping = False
        self._reported = 0.0
        self._occupied: tuple[bool, ...] = ()

    def run(self) -> None:
        """Until told to stop."""
        while not (self._stopping and not self._engine.busy and not self._engine.in_flight):
            if self._ranks is not None and self._attached and not self._paused:
                for replica, plan in self._engine.plans():
                    self._ranks.send(replica, plan)
            self._pay()
            self._report()
            events = dict(self._poller.poll(int(ALIVE_S * 1000)))
            if self._ranks is not None and self._ranks.results in events:
                self._take_results()
            if self._control in events:
                self._take_messages()
        if self._ranks is not None:
            self._ranks.halt()
            self._ranks.close(linger_ms=500)
        self._tell_hub()
        self._control.send(_encode(Drained()))
        self._emitter.close()
        self._context.destroy(linger=1000)

    def _pay(self) -> None:
        """Tell what was asked for, once it has come to pass."""
        rested = isinstance(self._owed, Paused) and not self._engine.in_flight
        if rested or (isinstance(self._owed, Replayed) and self._engine.replayed):
            self._control.send(_encode(self._owed))
            self._owed = None

    def _take_results(self) -> None:
        assert self._ranks is not None
        outputs: list[TokensOut] = []
        for result in self._ranks.received():
            if self._attached:
                outputs += self._engine.apply(result)
        self._tell(outputs)

    def _take_messages(self) -> None:
        while True:
            try:
                message = _decode(self._control.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            self._handle(message)

    def _handle(self, message: Inbound) -> None:
        match message:
            case Generate():
                if self._stopping:
                    refused: TokensOut | None = TokensOut(message.request, [], finish="error", error="the deployment is stopping")
                else:
                    refused = self._engine.add(message)
                if refused is not None:
                    self._tell([refused])
            case Abort():
                self._engine.abort(message.request)
            case Bind():
                self._close_ranks()
                self._ranks = RankSockets(self._context, message)
                self._poller.register(self._ranks.results, zmq.POLLIN)
                self._bind = message
                self._control.send(_encode(Bound(message.generation)))
            case Attach():
                if self._bind is not None and self._bind.generation == message.generation:
                    self._tell(self._engine.attach(self._bind, message))
                    self._attached = True
                    self._owed = Replayed(message.generation)
            case Pause():
                self._paused = True
                self._owed = Paused(message.generation)
            case Detach():
                self._attached = self._paused = False
                self._owed = None
                self._close_ranks()
                self._tell(self._engine.detach(message.error))
            case Stop():
                self._stopping = True
                self._paused = False
                if message.now or not self._attached:
                    self._tell(self._engine.end_all(FINISH_ABORT, "the deployment was stopped"))
                    self._engine.detach()
            case _:
                assert_never(message)

    def _close_ranks(self) -> None:
        if self._ranks is not None:
            self._poller.unregister(self._ranks.results)
            self._ranks.close()
            self._ranks = None

    def _tell(self, outputs: list[TokensOut]) -> None:
        if outputs:
            self._control.send(_encode(Outputs(outputs)))

    def _report(self) -> None:
        """That it lives, four times a second; the queues' state with it, and whenever they fill, empty or let a request go."""
        now = time.monotonic()
        due = now - self._reported >= ALIVE_S
        occupied = self._engine.occupied
        if due:
            self._reported = now
            self._control.send(_encode(Alive()))
        if due or self._engine.finished or occupied != self._occupied:
            self._occupied = occupied
            self._tell_hub()

    def _tell_hub(self) -> None:
        finished, self._engine.finished = self._engine.finished, []
        for message in _messages(self._engine.records(), finished):
            self._emitter.emit(*message)


def _messages(state: list[EngineRecord], finished: list[RequestRecord]) -> Iterator[list[Record]]:
    """No more in one than an envelope holds."""
    message: list[Record] = [*state]
    gaps = 0
    for request in finished:
        if gaps + len(request.gaps_ns) > MAX_GAPS:
            yield message
            message, gaps = [], 0
        message.append(request)
        gaps += len(request.gaps_ns)
    if message:
        yield message


def main() -> None:
    child.die_with_parent()
    config = msgspec.json.decode(sys.argv[1], type=EngineConfig)
    gc.freeze()
    EngineProcess(config).run()


if __name__ == "__main__":
    main()
