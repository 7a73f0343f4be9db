"""Which accelerators jobs train on."""

from __future__ import annotations

from sqlalchemy import Connection, select

from tunewright.service.db.tables import jobs, workers
from tunewright.service.jobs import HELD, Status


def is_accelerator_busy(connection: Connection, worker_name: str) -> bool:
    """Whether a worker of this name has an accelerator and holds a job that trains, or did until it was
    cancelled: its trainer has the accelerator until the worker gives the lease back."""
    held = jobs.c.status.in_([str(status) for status in (*HELD, Status.CANCELLED)])
    query = select(workers.c.capabilities).join(jobs, jobs.c.lease_worker == workers.c.id)
    found = connection.execute(query.where(held, workers.c.name == worker_name)).scalars()
    return any(each.get("cuda") or each.get("platform") == "darwin-arm64" for each in found)
