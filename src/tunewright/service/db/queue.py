"""The queue: claim, lease and fencing. Whatever a worker writes goes through `hold_job`.

A lease is a row's worker, its time and a token that rises with every claim. Whoever comes with an older
token is refused, so that a worker that slept past its lease cannot write into the next one's work.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Subquery,
    and_,
    case,
    func,
    insert,
    or_,
    select,
    true,
    update,
)

from tunewright.service.db.database import clock, hold_name, steady_clock
from tunewright.service.db.rows import to_job
from tunewright.service.db.tables import attempts, jobs, workers
from tunewright.service.jobs import CLAIMABLE, HELD, Phase, Status, phase_of
from tunewright.service.records import JobRecord, Machine

_CLAIM = "c1a15a9e6b3d4f07"
ANY_MACHINE = Machine({})
"""One that says nothing of itself."""


def claim_job(
    connection: Connection,
    worker: str,
    lease_seconds: float,
    most_per_project: int = 0,
    machine: Machine = ANY_MACHINE,
    bases: Collection[str] | None = None,
    phase: Phase | None = None,
) -> JobRecord | None:
    """Give the next waiting job to a worker, under a new token; None when nothing waits that it can do.

    Order: priority, then the project with the fewest held jobs, then age. Running jobs keep their status
    until the caller writes the next one in the same transaction. most_per_project: jobs in training after
    which a project's others wait; 0 for no limit. bases: jobs on any other base model wait; None takes all.
    phase: jobs that have another one to do wait.
    """
    if most_per_project:
        # Two claims at once would both see room for one more.
        hold_name(connection, _CLAIM)
    now = steady_clock(connection)
    held = _held_jobs()
    waits = [_is_waiting(phase, now), _can_do(machine)]
    if most_per_project:
        is_check = jobs.c.status == str(Status.VALIDATING)
        waits.append(or_(is_check, func.coalesce(held.c.trained, 0) < most_per_project))
    if bases is not None:
        waits.append(jobs.c.request["base"].as_string().in_(sorted(bases)))
    chosen = (
        select(jobs.c.id)
        .outerjoin_from(jobs, held, held.c.project == jobs.c.project)
        .where(*waits)
        .order_by(jobs.c.priority.desc(), func.coalesce(held.c.jobs, 0), jobs.c.created_at, jobs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=jobs)
        .scalar_subquery()
    )
    taken = update(jobs).where(jobs.c.id == chosen)
    row = connection.execute(
        taken.values(
            lease_worker=worker, lease_expires=now + lease_seconds, attempt=jobs.c.attempt + 1
        ).returning(jobs)
    ).mappings()
    found = row.first()
    if found is None:
        return None
    job = to_job(found)
    connection.execute(
        insert(attempts).values(
            job_id=job.id,
            number=job.attempt,
            worker=worker,
            phase=phase_of(job.status),
            started_at=clock(connection),
        )
    )
    return job


def _is_waiting(phase: Phase | None, now: float) -> ColumnElement[bool]:
    """Whether a job is due for this phase, None for any, and nobody holds it."""
    statuses = [str(status) for status in CLAIMABLE if phase in (None, phase_of(status))]
    return and_(jobs.c.status.in_(statuses), jobs.c.lease_worker.is_(None), jobs.c.not_before <= now)


def _held_jobs() -> Subquery:
    """How many jobs of each project are held. Counted once, not for each waiting job: with a thousand of them
    that would take a second."""
    others = jobs.alias("others")
    is_trained = case((others.c.status != str(Status.VALIDATING), 1))
    return (
        select(others.c.project, func.count().label("jobs"), func.count(is_trained).label("trained"))
        .where(others.c.lease_worker.is_not(None))
        .group_by(others.c.project)
        .subquery("held")
    )


def _can_do(machine: Machine) -> ColumnElement[bool]:
    """Whether a job can go on there, and did not yet ask for more memory than there is."""
    if not machine.places:
        return true()
    here = [(jobs.c.place == place, size) for place, size in machine.places.items()]
    begins = (jobs.c.place.is_(None), machine.memory_at(None))
    return or_(*(and_(is_here, jobs.c.memory_over < size) for is_here, size in (begins, *here)))


def hold_job(connection: Connection, job_id: str, attempt: int) -> JobRecord | None:
    """The job, locked until the transaction ends, if its lease is this attempt's and still runs."""
    query = select(jobs).where(jobs.c.id == job_id, jobs.c.attempt == attempt)
    row = connection.execute(query.with_for_update()).mappings().first()
    if row is None or row["lease_worker"] is None or row["lease_expires"] <= steady_clock(connection):
        return None
    return to_job(row)


def renew_lease(connection: Connection, job: JobRecord, lease_seconds: float) -> None:
    """Let the lease of a held job run on from now; its worker was seen by that."""
    connection.execute(
        update(jobs).where(jobs.c.id == job.id).values(lease_expires=steady_clock(connection) + lease_seconds)
    )
    seen = update(workers).where(workers.c.id == job.lease_worker)
    connection.execute(seen.values(seen_at=clock(connection)))


def shorten_leases(connection: Connection, lease_seconds: float) -> None:
    """Let no job wait longer than a lease from now. For the start of a server that is alone with its
    database: what ends later was written before the clock of the machine was put back."""
    latest = steady_clock(connection) + lease_seconds
    for column in (jobs.c.lease_expires, jobs.c.not_before):
        connection.execute(update(jobs).where(column > latest).values({column: latest}))


def end_attempt(
    connection: Connection, job: JobRecord, outcome: str, exit_code: int | None, **values: Any
) -> None:
    """Give the lease back, close the attempt and set further columns of the job."""
    connection.execute(
        update(jobs).where(jobs.c.id == job.id).values(lease_worker=None, lease_expires=None, **values)
    )
    connection.execute(
        update(attempts)
        .where(attempts.c.job_id == job.id, attempts.c.number == job.attempt)
        .values(ended_at=clock(connection), outcome=outcome, exit_code=exit_code)
    )


def lock_expired(connection: Connection) -> list[JobRecord]:
    """Jobs whose lease ran out, locked until the transaction ends, and those that claim to be held by
    nobody."""
    orphaned = and_(jobs.c.lease_worker.is_(None), jobs.c.status.in_([str(status) for status in HELD]))
    query = select(jobs).where(or_(jobs.c.lease_expires <= steady_clock(connection), orphaned))
    rows = connection.execute(query.with_for_update(skip_locked=True)).mappings()
    return [to_job(row) for row in rows]


def note_worker(connection: Connection, worker: str, name: str, capabilities: Mapping[str, Any]) -> None:
    """Remember that a worker is there."""
    values = {"name": name, "capabilities": dict(capabilities), "seen_at": clock(connection)}
    changed = connection.execute(update(workers).where(workers.c.id == worker).values(**values))
    if changed.rowcount == 0:
        connection.execute(insert(workers).values(id=worker, **values))
