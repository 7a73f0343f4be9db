"""Every refusal in OpenAI's error envelope, and an id and a time on every answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunewright.service.absent import absent_call, unknown_call
from tunewright.service.context import Service
from tunewright.service.db.database import DATABASE_AWAY
from tunewright.service.faults import INVALID_REQUEST, SERVER, ApiError, disk_full, unknown_field
from tunewright.service.ids import REQUEST, new_id
from tunewright.service.logs import request_id as current_request
from tunewright.service.room import is_full

log = logging.getLogger("tunewright.service")

UNLIMITED = 2**63
"""A body limit for routes that count by themselves."""
LONGEST_PLACE = 200
"""Letters of a field's name that are told: the name is the caller's, and may be as long as a body."""
NO_OBJECT = frozenset({"missing", "dict_type", "model_type", "model_attributes_type"})
"""What pydantic says of a body that is empty or no object."""


def install(app: FastAPI) -> None:
    """Answer every exception of the app in the envelope."""
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_route)
    for away in DATABASE_AWAY:
        app.add_exception_handler(away, _no_database)
    app.add_exception_handler(OSError, _no_disk)
    app.add_exception_handler(Exception, _failed)


def envelope(error: ApiError) -> JSONResponse:
    """The answer for one refusal."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


class RequestIds:
    """ASGI wrapper that gives each answer `x-request-id` and `openai-processing-ms`, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = new_id(REQUEST)
        scope.setdefault("state", {})["request_id"] = request_id
        current_request.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round(1000 * (time.perf_counter() - started)))
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        await self.app(scope, receive, send_with_id)


class Refusals:
    """ASGI wrapper for what is refused outside of the routes: a path or query with the character NUL, which
    PostgreSQL cannot compare, a body whose end is told in two ways, and one above its limit, which Starlette
    would refuse in plain text."""

    def __init__(self, app: ASGIApp, body_bytes: int) -> None:
        self.app = app
        self.body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        refusal = _refusal_of(scope) if scope["type"] == "http" else None
        if refusal is not None:
            await envelope(refusal)(scope, receive, send)
            return
        replaced = False

        async def send_envelope(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] == 413:
                replaced = Headers(scope=message).get("content-type", "").startswith("text/plain")
                if replaced:
                    await envelope(_too_large(self.body_bytes))(scope, receive, send)
            if not replaced:
                await send(message)

        await self.app(scope, receive, send_envelope)


def _refusal_of(scope: Scope) -> ApiError | None:
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        return ApiError(400, "The address has a NUL character in it", code="invalid_value")
    headers = Headers(scope=scope)
    if "transfer-encoding" in headers and ("content-length" in headers or scope["http_version"] == "1.0"):
        # What follows on the connection is the body to one reader and a request to another (RFC 9112, 6.3).
        return ApiError(
            400,
            "The request tells the end of its body by Transfer-Encoding and in another way; send one of them",
            code="invalid_http",
            headers={"connection": "close"},
        )
    return None


def _too_large(most_bytes: int) -> ApiError:
    message = (
        f"The body of the request is too large: the limit is {most_bytes:,} bytes. Send less in one call"
    )
    return ApiError(413, message, code="request_too_large")


def _refused(_request: Request, error: Exception) -> JSONResponse:
    return envelope(error if isinstance(error, ApiError) else _internal())


def _invalid(_request: Request, error: Exception) -> JSONResponse:
    faults: Sequence[Any] = error.errors() if isinstance(error, RequestValidationError) else ()
    first: dict[str, Any] = dict(faults[0]) if faults else {}
    # The place starts with `body`, `query` or `path`, which the caller did not write.
    where = (
        ".".join(str(part) for part in first.get("loc", ())[1:] if part != "[key]")[:LONGEST_PLACE] or None
    )
    kind = first.get("type")
    if kind == "json_invalid":
        return envelope(_no_json())
    if where is None:
        message, code = f"The body is not as it has to be: {_reason(first)}", "invalid_value"
    elif kind == "extra_forbidden":
        return envelope(unknown_field(where))
    elif kind == "missing":
        message, code = f"Missing required parameter: '{where}'", "missing_required_parameter"
    else:
        message, code = f"Invalid value for '{where}': {_reason(first)}", "invalid_value"
    return envelope(ApiError(400, message, param=where, code=code))


def _reason(fault: Mapping[str, Any]) -> str:
    if not fault.get("loc", ())[1:] and fault.get("type") in NO_OBJECT:
        return "send a JSON object"
    reason = str(fault.get("msg", "it is not valid")).removeprefix("Value error, ")
    return f"{reason[:1].lower()}{reason[1:]}"


def _no_route(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error.__cause__, ApiError):
        # FastAPI hides what was raised while it read the body.
        return envelope(error.__cause__)
    if isinstance(error.__cause__, ValueError | RecursionError):
        return envelope(_no_json())
    if not isinstance(error, HTTPException):
        return envelope(_internal())
    if error.status_code == 413:
        return envelope(_too_large(request.app.state.service.settings.limits.json_bytes))
    path = request.url.path[:LONGEST_PLACE]
    if error.status_code in (404, 405):
        return envelope(absent_call(path) or unknown_call(error.status_code, request.method, path))
    return envelope(ApiError(error.status_code, str(error.detail), type=INVALID_REQUEST))


def _no_database(request: Request, error: Exception) -> JSONResponse:
    reason = " ".join(str(getattr(error, "orig", None) or error).split())
    if is_full(error):
        log.error("%s %s: the database has no room: %s", request.method, request.url.path, reason)
        cast(Service, request.app.state.service).room.note_database(is_full=True)
        return envelope(disk_full())
    log.error("%s %s: the database does not answer: %s", request.method, request.url.path, reason)
    away = ApiError(
        503,
        "The database of the server does not answer. Try again",
        type=SERVER,
        code="database_unavailable",
        headers={"retry-after": "1"},
    )
    return envelope(away)


def _no_disk(request: Request, error: Exception) -> JSONResponse:
    if not is_full(error):
        return _failed(request, error)
    log.error("%s %s: the disk of the home folder is full: %s", request.method, request.url.path, error)
    service = cast(Service, request.app.state.service)
    service.room.note_home_full(service.settings.home)
    return envelope(disk_full())


def _failed(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return envelope(_internal())


def _no_json() -> ApiError:
    return ApiError(400, "The body is not valid JSON", code="invalid_json")


def _internal() -> ApiError:
    return ApiError(500, "The server had an error while processing your request", type=SERVER)
