"""How answers travel: at once or as server-sent events, and in both cases only as long as the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from runtime.daemon.http.errors import as_api_error, error_body

DONE = b"data: [DONE]\n\n"

Result = TypeVar("Result")


def event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def json_answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")


async def until_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """`work`'s result. When the client leaves first, `work` is cancelled, waited for, and ClientDisconnect raised.

    The body must have been read: the next thing to receive is then that the client left.
    """
    doing = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect
        return doing.result()
    finally:
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events from a generator, which is closed whichever way the response ends.

    The status line waits for the first event: what fails before it is answered like any error, with a status of its own.
    What fails later is told as an event, and the stream ends there.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        # nginx and its kin would collect events into a buffer
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_gone(receive, self._send(scope["path"], send))
        except ClientDisconnect:
            pass

    async def _send(self, path: str, send: Send) -> None:
        async with aclosing(self._events) as events:
            first = await anext(events)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            try:
                async for data in events:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except Exception as failure:
                told = event(error_body(as_api_error(failure), path))
                await send({"type": "http.response.body", "body": told, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
