"""The HTTP app: which routes there are, who may call them, and what the daemon says of itself."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.responses import Response

from runtime.daemon.http import chat, completions, errors, tgi
from runtime.daemon.http.errors import ApiError
from runtime.daemon.http.serving import RETRY_AFTER_S, Catalogue, catalogue, unknown_model
from runtime.daemon.http.stream import json_answer
from runtime.frontend import Frontend

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def create_app(
    frontends: Callable[[], Mapping[str, Frontend]],
    metrics: Callable[[], bytes],
    alive: Callable[[], bool],
    api_key: str | None = None,
) -> FastAPI:
    """The daemon's HTTP side. The functions are asked at every request: deployments come and go.

    `metrics` is the Prometheus text. `alive`: whether the daemon does its work. With `api_key`, every route but /health and
    /ready, which probes call, wants it as a bearer token.
    """
    app = FastAPI(title="shardscope", openapi_url=None, redirect_slashes=False)
    app.state.catalogue = Catalogue(frontends)
    errors.install(app)
    guard = [Depends(_key_check(api_key))] if api_key else []
    for router in (_models, completions.router, chat.router, tgi.router):
        app.include_router(router, dependencies=guard)

    @app.get("/health", response_model=None)
    async def health() -> Response:
        """Liveness: whether to restart the daemon. Says nothing of deployments."""
        fine = alive()
        return json_answer({"status": "ok" if fine else "not alive"}, 200 if fine else 503)

    @app.get("/ready", response_model=None)
    async def ready() -> Response:
        """Readiness: whether to send requests, and which deployment is to blame if not."""
        states = {name: "ready" if frontend.ready else "not ready" for name, frontend in frontends().items()}
        fine = "ready" in states.values()
        headers = {} if fine else {"Retry-After": str(RETRY_AFTER_S)}
        return json_answer({"status": "ready" if fine else "not ready", "deployments": states}, 200 if fine else 503, headers)

    @app.get("/metrics", response_model=None, dependencies=guard)
    async def prometheus() -> Response:
        return Response(metrics(), media_type=METRICS_TYPE)

    return app


_models = APIRouter()


@_models.get("/v1/models", response_model=None)
async def list_models(request: Request) -> Response:
    listed = [_model(name, frontend) for name, frontend in catalogue(request).frontends().items()]
    return json_answer({"object": "list", "data": listed})


@_models.get("/v1/models/{name:path}", response_model=None)
async def one_model(request: Request, name: str) -> Response:
    known = catalogue(request).frontends()
    if name not in known:
        raise unknown_model(name, known)
    return json_answer(_model(name, known[name]))


def _model(name: str, frontend: Frontend) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": frontend.created,
        "owned_by": "shardscope",
        "max_model_len": frontend.max_model_len,
    }


def _key_check(api_key: str) -> Callable[[Request], Awaitable[None]]:
    expected = f"Bearer {api_key}".encode()

    async def check(request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        # a comparison that stops at the first difference tells an attacker how much was right
        if not hmac.compare_digest(given, expected):
            headers = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, "a valid API key is required as a bearer token", code="invalid_api_key", headers=headers)

    return check
