"""What a user may do to a job: cancel, pause, resume. Called with the job's row locked."""

from __future__ import annotations

from typing import Any

from tunewright.service.db.artifacts import drop_states
from tunewright.service.db.database import Connection, clock
from tunewright.service.db.events import NewEvent, add_events
from tunewright.service.db.jobs import change_job
from tunewright.service.faults import ApiError
from tunewright.service.jobs import TERMINAL, Action, Status, next_status
from tunewright.service.records import JobRecord

_TOLD = {
    Status.CANCELLED: "Fine-tuning job cancelled",
    Status.PAUSING: "Fine-tuning job is pausing: it stops after the next step and saves",
    Status.PAUSED: "Fine-tuning job paused",
    Status.QUEUED: "Fine-tuning job resumed",
}
_WHEN = {Action.PAUSE: "queued or running", Action.RESUME: "paused"}
_WANTED = {Action.CANCEL: "cancel", Action.PAUSE: "pause", Action.RESUME: "run"}


def act(connection: Connection, job: JobRecord, action: Action) -> None:
    """Change a job as its owner asks; a repeat of what was done already changes nothing.

    Raises ApiError 400 when the job is in no state for it.
    """
    status = next_status(job.status, action)
    if status is None:
        raise _not_now(job.status, action)
    if status is job.status:
        return
    values: dict[str, Any] = {"status": status.value, "wanted": _WANTED[action]}
    if status in TERMINAL:
        values["finished_at"] = clock(connection)
        drop_states(connection, job.id)
    change_job(connection, job.id, **values)
    add_events(connection, job.id, [NewEvent(_TOLD[status])])


def _not_now(status: Status, action: Action) -> ApiError:
    if status in TERMINAL:
        return ApiError(
            400,
            f"The job has already completed: its status is '{status}'. Create a new job instead",
            code="job_already_completed",
        )
    return ApiError(
        400,
        f"Cannot {action} a job while its status is '{status}'. Wait until it is {_WHEN[action]}",
        code="invalid_job_state",
    )
