"""GET /health: whether the server works, for people and load balancers. Needs no key, tells no secrets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from fastapi import APIRouter, Response

from tunewright import __version__
from tunewright.host_memory import free_memory_bytes
from tunewright.service.context import Service, ServiceArg
from tunewright.service.db.database import DatabaseFault
from tunewright.service.db.jobs import count_by_status
from tunewright.service.db.replays import try_to_write
from tunewright.service.jobs import CLAIMABLE, HELD
from tunewright.service.schemas.lists import ApiModel

router = APIRouter(tags=["Health"])


Problem = Literal["disk_full", "database_full"]
DEGRADED = 503


class Health(ApiModel):
    """How a server does. Jobs are those of all projects."""

    status: Literal["ok", "degraded"]
    """`degraded` while something in `problems` keeps calls from working."""
    problems: list[Problem]
    """`disk_full`: files find no room. `database_full`: jobs find none."""
    version: str
    """Version of Tunewright."""
    available_memory_gb: float
    """Memory that this machine or container has left for new work, in GiB."""
    active_jobs: int
    """Jobs that a worker holds."""
    queue_length: int
    """Jobs that wait for a worker."""


@router.get(
    "/health",
    openapi_extra={"security": []},
    responses={DEGRADED: {"model": Health, "description": "Degraded"}},
)
def health(service: ServiceArg, response: Response) -> Health:
    """Answers once the database does, with 503 while the server is degraded: what it stored can be read, but
    nothing can be added."""
    problems = list(_problems(service))
    if problems:
        response.status_code = DEGRADED
    with service.database.read() as connection:
        counts = count_by_status(connection)
    return Health(
        status="degraded" if problems else "ok",
        problems=problems,
        version=__version__,
        available_memory_gb=round(free_memory_bytes() / 2**30, 2),
        active_jobs=sum(counts.get(status, 0) for status in HELD),
        queue_length=sum(counts.get(status, 0) for status in CLAIMABLE),
    )


def _problems(service: Service) -> Iterator[Problem]:
    if service.room.is_home_full(service.settings.home):
        yield "disk_full"
    if service.room.should_try_database():
        try:
            with service.database.write() as connection:
                try_to_write(connection)
        except DatabaseFault:
            pass
        else:
            service.room.note_database(is_full=False)
    if service.room.is_database_full:
        yield "database_full"
