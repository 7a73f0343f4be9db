"""What an operator watches, in a few aggregate queries over all projects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, and_, func, select

from tunewright.service.db.database import clock, steady_clock
from tunewright.service.db.jobs import count_by_status
from tunewright.service.db.machines import live_machines
from tunewright.service.db.tables import attempts, blobs, jobs, metrics
from tunewright.service.jobs import CLAIMABLE, Status


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """jobs: by status. finished: by status, how many and how many seconds together. Ages in seconds, 0 when
    there is nothing to be old."""

    jobs: Mapping[str, int]
    finished: Mapping[str, tuple[int, float]]
    longest_wait: float
    leases: int
    lease_age: float
    lost_attempts: int
    workers: int
    tokens_per_second: float
    stored_bytes: int


def read_figures(connection: Connection, lease_seconds: float) -> ServiceFigures:
    """The figures of this moment. lease_seconds: the length of a fresh lease."""
    now, steady = clock(connection), steady_clock(connection)
    leases, first_expiry = connection.execute(
        select(func.count(), func.min(jobs.c.lease_expires)).where(jobs.c.lease_worker.is_not(None))
    ).one()
    return ServiceFigures(
        jobs=count_by_status(connection),
        finished=_finished(connection),
        longest_wait=_longest_wait(connection, now, steady),
        leases=leases,
        lease_age=max(steady + lease_seconds - first_expiry, 0.0) if first_expiry else 0.0,
        lost_attempts=connection.execute(
            select(func.count()).select_from(attempts).where(attempts.c.outcome == "lost")
        ).scalar_one(),
        workers=len(live_machines(connection)),
        tokens_per_second=_tokens_per_second(connection),
        stored_bytes=int(connection.execute(select(func.coalesce(func.sum(blobs.c.bytes), 0))).scalar_one()),
    )


def _finished(connection: Connection) -> dict[str, tuple[int, float]]:
    seconds = func.sum(jobs.c.finished_at - jobs.c.started_at)
    query = (
        select(jobs.c.status, func.count(), seconds)
        .where(jobs.c.finished_at.is_not(None), jobs.c.started_at.is_not(None))
        .group_by(jobs.c.status)
    )
    return {row[0]: (row[1], float(row[2])) for row in connection.execute(query)}


def _longest_wait(connection: Connection, now: float, steady: float) -> float:
    waits = [str(status) for status in CLAIMABLE]
    query = select(func.min(jobs.c.created_at)).where(
        jobs.c.status.in_(waits), jobs.c.lease_worker.is_(None), jobs.c.not_before <= steady
    )
    oldest = connection.execute(query).scalar_one()
    return max(now - oldest, 0.0) if oldest else 0.0


def _tokens_per_second(connection: Connection) -> float:
    step = and_(metrics.c.job_id == jobs.c.id, metrics.c.step == jobs.c.step)
    query = (
        select(metrics.c.figures)
        .select_from(jobs.join(metrics, step))
        .where(jobs.c.status == str(Status.RUNNING))
    )
    return sum(float(figures.get("tokens_per_second") or 0.0) for figures in connection.scalars(query))
