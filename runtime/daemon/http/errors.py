"""What clients are told when something fails: one exception, one table from causes to answers, two shapes of body.

OpenAI's clients read `{"error": {"message", "type", "param", "code"}}`; text-generation-inference's read
`{"error", "error_type"}`. The path alone decides which, so that a wrong method or an unknown route is told in the same shape.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from runtime.frontend import DeploymentGone, Overloaded

log = logging.getLogger(__name__)

TGI_PATHS = frozenset({"/", "/generate", "/generate_stream", "/info"})
CLIENT_GONE_STATUS = 499  # nobody reads it but an access log; nginx' number for the same


class ApiError(Exception):
    """A refusal with its HTTP status. `param` names the field at fault, `code` is what programs compare."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def type(self) -> str:
        if self.status >= 500:
            return "server_error"
        return "rate_limit_error" if self.status == 429 else "invalid_request_error"

    @property
    def tgi_type(self) -> str:
        if self.status >= 500:
            return "generation"
        return "overloaded" if self.status == 429 else "validation"


def as_api_error(error: Exception) -> ApiError:
    """The answer to any failure. One that nobody foresaw is logged here and told without its details."""
    match error:
        case ApiError():
            return error
        case DeploymentGone():
            return ApiError(503, str(error), code="deployment_gone", headers={"Retry-After": "1"})
        case Overloaded():
            return ApiError(429, str(error), code="overloaded", headers={"Retry-After": str(error.retry_after_s)})
        case HTTPException():
            return ApiError(error.status_code, error.detail, headers=error.headers)
        case _:
            log.error("a request failed", exc_info=error)
            return ApiError(500, f"internal error ({type(error).__name__}): the daemon's log has the details")


def error_body(error: ApiError, path: str) -> dict[str, object]:
    if path in TGI_PATHS:
        return {"error": error.message, "error_type": error.tgi_type}
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def install(app: FastAPI) -> None:
    """Make `app` answer every failure in the shape that its path's clients read."""

    async def answer(request: Request, failure: Exception) -> Response:
        error = as_api_error(failure)
        path = request.url.path
        # text-generation-inference says 422 where OpenAI says 400, and its clients look for it
        status = 422 if path in TGI_PATHS and error.status == 400 else error.status
        return Response(msgspec.json.encode(error_body(error, path)), status, error.headers, "application/json")

    async def nobody_listens(request: Request, failure: Exception) -> Response:
        return Response(status_code=CLIENT_GONE_STATUS)

    for kind in (ApiError, DeploymentGone, Overloaded, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(ClientDisconnect, nobody_listens)
