"""Reading a request's body: bounded in size, strictly JSON, checked against a schema, each refusal naming the field."""

from __future__ import annotations

from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from runtime.daemon.http.errors import ApiError

MAX_BODY_BYTES = 16 * 2**20
# A refused body is still read this far: a client that is cut off while it writes sees a broken pipe and not the answer.
DRAIN_BYTES = 4 * MAX_BODY_BYTES

Schema = TypeVar("Schema", bound=BaseModel)


async def read_body(request: Request, schema: type[Schema]) -> Schema:
    """Raises ApiError: 413 beyond `MAX_BODY_BYTES`, 400 for what is not JSON (bad UTF-8, absurd nesting) or not `schema`."""
    raw = await _read(request)
    try:
        return schema.model_validate_json(raw)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_input=False)) from None


async def _read(request: Request) -> bytes:
    received = 0
    chunks: list[bytes] = []
    async for chunk in request.stream():
        received += len(chunk)
        if received <= MAX_BODY_BYTES:
            chunks.append(chunk)
        elif received > DRAIN_BYTES:
            break
    if received > MAX_BODY_BYTES:
        raise ApiError(
            413,
            f"the body is larger than {MAX_BODY_BYTES} bytes, the most that is read",
            code="body_too_large",
            headers={"Connection": "close"},
        )
    return b"".join(chunks)


def _refusal(problems: list[ErrorDetails]) -> ApiError:
    """One error for the first field at fault. A field that may have several types reports one problem for each."""
    first = problems[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not valid JSON: {first['ctx']['error']}", code="invalid_json")
    if first["type"] == "unsupported":
        param = str(first["ctx"]["param"])
        return ApiError(400, f"{param}: {first['msg']}", param=param)
    if not first["loc"]:
        return ApiError(400, f"the body: {first['msg']}")
    param = str(first["loc"][0])
    words = dict.fromkeys(f"{_path(problem)}: {problem['msg']}" for problem in problems if problem["loc"][:1] == first["loc"][:1])
    return ApiError(400, "; or ".join(words), param=param)


def _path(problem: ErrorDetails) -> str:
    """`messages[0].content`. Between fields and indices, pydantic names the types that it tried, and those are left out."""
    path = ""
    for part in problem["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "list"):
            path += f".{part}" if path else part
    return path
