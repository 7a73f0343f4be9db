"""GET /health: whether the server works, for people and load balancers. Needs no key, tells no secrets."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter

from tunewright import __version__
from tunewright.host_memory import free_memory_bytes
from tunewright.service.context import ServiceArg
from tunewright.service.db.jobs import count_by_status
from tunewright.service.jobs import CLAIMABLE, HELD
from tunewright.service.schemas.lists import ApiModel

router = APIRouter(tags=["Health"])


class Health(ApiModel):
    """A server that works. Jobs are those of all projects."""

    status: Literal["ok"] = "ok"
    version: str
    """Version of Tunewright."""
    available_memory_gb: float
    """Memory that this machine or container has left for new work, in GiB."""
    active_jobs: int
    """Jobs that a worker holds."""
    queue_length: int
    """Jobs that wait for a worker."""


@router.get("/health", openapi_extra={"security": []})
def health(service: ServiceArg) -> Health:
    """Answers once the database does."""
    with service.database.read() as connection:
        counts = count_by_status(connection)
    return Health(
        version=__version__,
        available_memory_gb=round(free_memory_bytes() / 2**30, 2),
        active_jobs=sum(counts.get(status, 0) for status in HELD),
        queue_length=sum(counts.get(status, 0) for status in CLAIMABLE),
    )
