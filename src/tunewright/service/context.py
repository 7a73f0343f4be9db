"""What every request handler works with, and how it gets at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Annotated, TypeVar, cast

from anyio import to_thread
from fastapi import Depends, Request

from tunewright.service.audit import AuditLog
from tunewright.service.db.database import Connection, Database
from tunewright.service.db.keys import find_key
from tunewright.service.faults import AUTHENTICATION, PERMISSION, ApiError
from tunewright.service.keys import Scope, hash_secret, is_well_formed
from tunewright.service.records import KeyRecord
from tunewright.service.room import Room
from tunewright.service.settings import ServeSettings
from tunewright.service.store import BlobStore
from tunewright.service.traffic import Traffic, too_many_requests

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Service:
    """One server: its settings, database, stored bytes, the secret that keys are hashed with, its audit log
    and what it remembers of its callers and of its disks."""

    settings: ServeSettings
    database: Database
    blobs: BlobStore
    pepper: bytes
    audit: AuditLog
    traffic: Traffic = field(default_factory=Traffic)
    room: Room = field(default_factory=Room)
    stopping: Event = field(default_factory=Event)
    """Set when the server ends, for answers that would go on."""


async def look_up(service: Service, question: Callable[[Connection], Found]) -> Found:
    """What a short question to the database finds, for coroutines.

    SQLite answers it from memory in less time than it takes to wake a thread, and never waits for a writer. A
    database elsewhere is asked in a thread.
    """
    if service.database.is_sqlite:
        return service.database.ask_here(question)
    return await to_thread.run_sync(service.database.ask, question)


# Dependencies that wait for nothing are coroutines: any other runs in a thread, which costs more than it.
async def current_service(request: Request) -> Service:
    """The server that a request came to."""
    return cast(Service, request.app.state.service)


ServiceArg = Annotated[Service, Depends(current_service)]


async def authenticate(request: Request) -> KeyRecord:
    """The key of a request, counted. Raises ApiError 401 for none, a wrong, expired or revoked one, 429 for
    one that asked too much, and 403 for a project header that is not the key's."""
    service = await current_service(request)
    given = request.headers.getlist("authorization")
    scheme, _, secret = (given[0] if len(given) == 1 else "").partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise _unauthorised("You didn't provide an API key. Send it as: Authorization: Bearer YOUR_KEY")
    key = None
    if is_well_formed(secret):
        hashed = hash_secret(service.pepper, secret)
        key = await look_up(service, lambda connection: find_key(connection, hashed))
    if key is None:
        raise _unauthorised("Incorrect API key provided. Make one with: tunewright key create")
    allowance = service.traffic.admit(key, service.settings.limits.requests_per_minute)
    request.state.key, request.state.allowance = key, allowance
    if allowance is not None and allowance.wait_seconds:
        raise too_many_requests(allowance)
    project = request.headers.get("openai-project")
    if project and project != key.project:
        raise ApiError(
            403,
            f"This key belongs to another project than {project}; drop the header OpenAI-Project",
            type=PERMISSION,
            code="wrong_project",
        )
    return key


def _unauthorised(message: str) -> ApiError:
    return ApiError(
        401,
        message,
        type=AUTHENTICATION,
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )


def check_scope(key: KeyRecord, scope: Scope) -> None:
    """Raise ApiError 403 unless the key may do this."""
    if scope not in key.scopes and "admin" not in key.scopes:
        raise ApiError(
            403,
            f"This key lacks the scope '{scope}'; make one that has it with: "
            f"tunewright key create NAME --scope {scope}",
            type=PERMISSION,
            code="insufficient_permissions",
        )


# Calls, not dependencies of dependencies: FastAPI takes longer to find out what one needs than this takes.
async def user_key(request: Request) -> KeyRecord:
    """The key of a call on files, jobs or models."""
    return await _key_for(request, "jobs")


async def worker_key(request: Request) -> KeyRecord:
    """The key of a worker's call."""
    return await _key_for(request, "worker")


async def metrics_key(request: Request) -> KeyRecord:
    """The key of a call that reads what the server does as a whole."""
    return await _key_for(request, "metrics")


async def _key_for(request: Request, scope: Scope) -> KeyRecord:
    key = await authenticate(request)
    check_scope(key, scope)
    return key


UserArg = Annotated[KeyRecord, Depends(user_key)]
