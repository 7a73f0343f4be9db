"""What one project may have at once: jobs, files, bytes. Checked where something new is made.

A check holds the project until its transaction ends: two at once would both see room for one more.
"""

from __future__ import annotations

import hashlib

from tunewright.service.db.database import Connection, hold_name
from tunewright.service.db.usage import count_live_jobs, count_stored
from tunewright.service.faults import ApiError
from tunewright.service.settings import Limits

QUOTA = "insufficient_quota"


def check_job_quota(connection: Connection, project: str, limits: Limits) -> None:
    """Raise ApiError 429 when a project has as many jobs that are not over as it may have."""
    if not limits.project_jobs:
        return
    _hold(connection, project)
    if count_live_jobs(connection, project) >= limits.project_jobs:
        raise _exceeded(
            f"Your project has {limits.project_jobs} jobs that are not over, which is its limit. "
            "Wait for one to end, or cancel one"
        )


def check_file_quota(connection: Connection, project: str, limits: Limits, new_bytes: int) -> None:
    """Raise ApiError 429 when a project has no room for another file of so many bytes."""
    if not limits.project_files and not limits.project_bytes:
        return
    _hold(connection, project)
    files, stored = count_stored(connection, project)
    if limits.project_files and files >= limits.project_files:
        raise _exceeded(f"Your project has {files} files, which is its limit. Delete some first")
    if limits.project_bytes and stored + new_bytes > limits.project_bytes:
        raise _exceeded(
            f"Your project stores {stored:,} of {limits.project_bytes:,} bytes, and {new_bytes:,} more are "
            "above its limit. Delete files or models first"
        )


def _hold(connection: Connection, project: str) -> None:
    hold_name(connection, hashlib.sha256(f"quota of {project}".encode()).hexdigest())


def _exceeded(message: str) -> ApiError:
    # The client would try a 429 again, which cannot help here.
    headers = {"x-should-retry": "false"}
    return ApiError(429, message, type=QUOTA, code=QUOTA, headers=headers)
