"""Rows of jobs for the people who own them. Every query names the project; workers use queue.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, exists, func, insert, or_, select, update

from tunewright.service.db.pages import Page, read_page
from tunewright.service.db.rows import to_job
from tunewright.service.db.tables import jobs
from tunewright.service.jobs import TERMINAL
from tunewright.service.records import JobRecord


def add_job(connection: Connection, values: Mapping[str, Any]) -> None:
    """Store a new job; columns that are not given have the defaults of the table."""
    connection.execute(insert(jobs).values(**values))


# Made once, as in keys.py: clients that wait for a job ask for it again and again.
_JOB = select(jobs).where(jobs.c.project == bindparam("project"), jobs.c.id == bindparam("job"))
_JOB_FOR_CHANGE = _JOB.with_for_update()


def find_job(
    connection: Connection, project: str, job_id: str, *, for_change: bool = False
) -> JobRecord | None:
    """A job of this project. for_change: nobody else may change it until the transaction ends."""
    query = _JOB_FOR_CHANGE if for_change else _JOB
    row = connection.execute(query, {"project": project, "job": job_id}).mappings().first()
    return to_job(row) if row else None


def list_jobs(
    connection: Connection, project: str, wanted: Mapping[str, str] | None, page: Page
) -> tuple[list[JobRecord], bool] | None:
    """A page of jobs and whether there are more; None for an unknown `after`.

    wanted: only jobs with these metadata; None takes all, an empty mapping those without metadata.
    """
    where = [jobs.c.project == project]
    if wanted is not None and not wanted:
        where.append(jobs.c.metadata.is_(None))
    where += [_has(connection, key, value) for key, value in (wanted or {}).items()]
    found = read_page(connection, jobs, where, page)
    return None if found is None else ([to_job(row) for row in found[0]], found[1])


def _has(connection: Connection, key: str, value: str) -> ColumnElement[bool]:
    if connection.dialect.name == "sqlite":
        # A JSON path of SQLite cannot say a key with a quotation mark in it.
        pair = func.json_each(jobs.c.metadata).table_valued("key", "value", name="pair")
        return exists().where(pair.c.key == key, pair.c.value == value)
    return jobs.c.metadata[key].as_string() == value


def change_job(connection: Connection, job_id: str, **values: object) -> None:
    """Set columns of a job that the caller holds."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))


def is_file_in_use(connection: Connection, file_id: str) -> bool:
    """Whether a job that is not over reads this file."""
    reads = or_(jobs.c.training_file == file_id, jobs.c.validation_file == file_id)
    over = [str(status) for status in TERMINAL]
    query = select(jobs.c.id).where(reads, jobs.c.status.not_in(over)).limit(1)
    return connection.execute(query).first() is not None


def live_bases(connection: Connection) -> set[str]:
    """The base models of all jobs that are not over."""
    over = [str(status) for status in TERMINAL]
    base = jobs.c.request["base"].as_string()
    return set(connection.execute(select(base).where(jobs.c.status.not_in(over)).distinct()).scalars())


def count_by_status(connection: Connection) -> dict[str, int]:
    """How many jobs of all projects have each status."""
    query = select(jobs.c.status, func.count()).group_by(jobs.c.status)
    return {row[0]: row[1] for row in connection.execute(query)}
