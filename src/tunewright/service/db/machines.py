"""The machines of workers that are there."""

from __future__ import annotations

from sqlalchemy import Connection, or_, select

from tunewright.service.db.database import clock
from tunewright.service.db.tables import jobs, workers
from tunewright.service.records import Machine

WORKER_SEEN_SECONDS = 60.0
"""A worker without a job asks for one every few seconds; one that was silent for so long is gone."""


def live_machines(connection: Connection) -> dict[str, Machine]:
    """Machines by the id of a worker that holds a job or asked for one lately."""
    lately = workers.c.seen_at > clock(connection) - WORKER_SEEN_SECONDS
    holds = workers.c.id.in_(select(jobs.c.lease_worker).where(jobs.c.lease_worker.is_not(None)))
    query = select(workers.c.id, workers.c.capabilities).where(or_(lately, holds))
    return {row.id: Machine(row.capabilities.get("places") or {}) for row in connection.execute(query)}
