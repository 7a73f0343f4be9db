"""When a running job will be over, by the pace of its last steps."""

from __future__ import annotations

from statistics import median

from tunewright.service.db.database import Connection, clock
from tunewright.service.db.events import read_paces
from tunewright.service.jobs import Status
from tunewright.service.records import JobRecord

STEPS_LOOKED_AT = 20


def estimate_finish(connection: Connection, job: JobRecord) -> int | None:
    """Unix seconds; None unless the job runs and has told of a step. Evaluations and saves are left out."""
    if job.status is not Status.RUNNING or job.total_steps is None:
        return None
    paces = read_paces(connection, job.id, STEPS_LOOKED_AT)
    if not paces:
        return None
    return int(clock(connection) + median(paces) * max(job.total_steps - job.step, 0))
