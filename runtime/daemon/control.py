"""The daemon's ear for commands: a ROUTER that answers what it understands, and survives what it does not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import msgspec
import zmq
import zmq.asyncio

from runtime.control import MAX_REQUEST, Body, Command, Failed, Reply, Request

MAX_PENDING = 256  # requests under way; more are refused

Handler = Callable[[Command], AsyncIterator[Body]]

log = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Request).decode


class ControlServer:
    """Runs each request in a task of its own: a deploy that takes a minute keeps no status waiting."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, handler: Handler) -> None:
        """Raises zmq.ZMQError when it cannot bind."""
        self.refused = 0
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket: zmq.asyncio.Socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST)
        self._socket.linger = 200  # the last answers, to clients that read
        self._socket.bind(endpoint)
        self._listening = asyncio.create_task(self._listen())

    def close(self) -> None:
        self._listening.cancel()
        for task in self._tasks:
            task.cancel()
        self._socket.close()

    async def drain(self) -> None:
        """Wait until every request has its answer."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)

    async def _listen(self) -> None:
        while True:
            peer, *frames = await self._socket.recv_multipart()
            try:
                if len(frames) != 1:
                    raise msgspec.ValidationError(f"a message of {len(frames)} frames")
                request = _decode(frames[0])
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                self.refused += 1
                log.debug("a control message is refused: %s", error)
                self._reply(peer, "", Failed(f"not understood: {error}", usage=True))
                continue
            if len(self._tasks) >= MAX_PENDING:
                self._reply(peer, request.id, Failed(f"{MAX_PENDING} requests are under way: try again later"))
                continue
            task = asyncio.create_task(self._answer(peer, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, peer: bytes, request: Request) -> None:
        try:
            async for body in self._handler(request.command):
                self._reply(peer, request.id, body)
        except Exception as error:
            log.exception("a control request failed")
            self._reply(peer, request.id, Failed(f"internal error: {type(error).__name__}: {error}"))

    def _reply(self, peer: bytes, request: str, body: Body) -> None:
        # to a peer that left or does not read, the ROUTER drops it
        self._socket.send_multipart([peer, _encode(Reply(request, body))])
