"""What a project has at this moment, for its quotas."""

from __future__ import annotations

from sqlalchemy import Connection, func, or_, select

from tunewright.service.db.database import clock
from tunewright.service.db.tables import artifact_files, artifacts, files, jobs
from tunewright.service.jobs import TERMINAL


def count_live_jobs(connection: Connection, project: str) -> int:
    """Jobs of a project that are not over."""
    over = [str(status) for status in TERMINAL]
    query = select(func.count()).where(jobs.c.project == project, jobs.c.status.not_in(over))
    return connection.execute(query).scalar_one()


def count_stored(connection: Connection, project: str) -> tuple[int, int]:
    """Files of a project, and the bytes of these and of what its jobs left: models and checkpoints.

    Bytes that two objects share are counted for each of them.
    """
    expires = files.c.expires_at
    uploads = connection.execute(
        select(func.count(), func.coalesce(func.sum(files.c.bytes), 0)).where(
            files.c.project == project,
            files.c.deleted_at.is_(None),
            or_(expires.is_(None), expires > clock(connection)),
        )
    ).one()
    left = connection.execute(
        select(func.coalesce(func.sum(artifact_files.c.bytes), 0))
        .join(artifacts, artifacts.c.id == artifact_files.c.artifact_id)
        .where(artifacts.c.project == project, artifacts.c.deleted_at.is_(None))
    ).scalar_one()
    return int(uploads[0]), int(uploads[1]) + int(left)
