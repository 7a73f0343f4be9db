"""The life of a job as one table: which status follows which, and by what."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

Phase = Literal["validate", "train"]
"""The work of one attempt."""


class Status(StrEnum):
    """The status of a job as the API shows it."""

    VALIDATING = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Action(StrEnum):
    """What happens to a job. The first three are asked for by users; the others are told by workers."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    VALIDATED = "validated"
    CLAIMED = "claimed"
    STOPPED = "stopped"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})
CLAIMABLE = (Status.VALIDATING, Status.QUEUED)
HELD = (Status.RUNNING, Status.PAUSING)
"""Only a worker with a lease may leave a job in one of these."""


def phase_of(status: Status) -> Phase:
    """The work that a job with this status waits for, or is in."""
    return "validate" if status is Status.VALIDATING else "train"


# STOPPED: the attempt ended without a result, and another one can go on from where it was.
TRANSITIONS: dict[tuple[Status, Action], Status] = {
    (Status.VALIDATING, Action.VALIDATED): Status.QUEUED,
    (Status.VALIDATING, Action.STOPPED): Status.VALIDATING,
    (Status.VALIDATING, Action.FAILED): Status.FAILED,
    (Status.VALIDATING, Action.CANCEL): Status.CANCELLED,
    (Status.QUEUED, Action.CLAIMED): Status.RUNNING,
    (Status.QUEUED, Action.PAUSE): Status.PAUSED,
    (Status.QUEUED, Action.CANCEL): Status.CANCELLED,
    (Status.QUEUED, Action.RESUME): Status.QUEUED,
    (Status.RUNNING, Action.PAUSE): Status.PAUSING,
    (Status.RUNNING, Action.RESUME): Status.RUNNING,
    (Status.RUNNING, Action.STOPPED): Status.QUEUED,
    (Status.RUNNING, Action.SUCCEEDED): Status.SUCCEEDED,
    (Status.RUNNING, Action.FAILED): Status.FAILED,
    (Status.RUNNING, Action.CANCEL): Status.CANCELLED,
    (Status.PAUSING, Action.PAUSE): Status.PAUSING,
    (Status.PAUSING, Action.STOPPED): Status.PAUSED,
    (Status.PAUSING, Action.SUCCEEDED): Status.SUCCEEDED,
    (Status.PAUSING, Action.FAILED): Status.FAILED,
    (Status.PAUSING, Action.CANCEL): Status.CANCELLED,
    (Status.PAUSED, Action.PAUSE): Status.PAUSED,
    (Status.PAUSED, Action.RESUME): Status.QUEUED,
    (Status.PAUSED, Action.CANCEL): Status.CANCELLED,
    (Status.CANCELLED, Action.CANCEL): Status.CANCELLED,
}


def next_status(status: Status, action: Action) -> Status | None:
    """The status after `action`; None where the table does not allow it."""
    return TRANSITIONS.get((status, action))
