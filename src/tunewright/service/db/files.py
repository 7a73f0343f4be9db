"""Rows of uploaded and result files. Every query names the project."""

from __future__ import annotations

from sqlalchemy import ColumnElement, CompoundSelect, Connection, insert, or_, select, union_all, update

from tunewright.service.db.database import clock
from tunewright.service.db.pages import Page, read_page
from tunewright.service.db.rows import to_file
from tunewright.service.db.tables import files, jobs
from tunewright.service.jobs import TERMINAL
from tunewright.service.records import FileRecord


def add_file(connection: Connection, file: FileRecord) -> None:
    """Store a new file; its blob must be recorded already."""
    connection.execute(
        insert(files).values(
            id=file.id,
            project=file.project,
            filename=file.filename,
            purpose=file.purpose,
            bytes=file.bytes,
            sha256=file.sha256,
            created_at=file.created_at,
            expires_at=file.expires_at,
        )
    )


def find_file(connection: Connection, project: str, file_id: str) -> FileRecord | None:
    """A file of this project that is neither deleted nor expired."""
    row = connection.execute(
        select(files).where(*_visible(connection, project), files.c.id == file_id)
    ).mappings()
    found = row.first()
    return to_file(found) if found else None


def list_files(
    connection: Connection, project: str, purpose: str | None, page: Page
) -> tuple[list[FileRecord], bool] | None:
    """A page of the project's files and whether there are more; None for an unknown `after`."""
    where = _visible(connection, project)
    if purpose is not None:
        where.append(files.c.purpose == purpose)
    found = read_page(connection, files, where, page)
    return None if found is None else ([to_file(row) for row in found[0]], found[1])


def delete_file(connection: Connection, file_id: str) -> None:
    """Hide a file; its bytes go with the next collection of unused blobs."""
    connection.execute(update(files).where(files.c.id == file_id).values(deleted_at=clock(connection)))


def expire_files(connection: Connection) -> None:
    """Delete files whose time is over, but those of live jobs."""
    now = clock(connection)
    connection.execute(
        update(files)
        .where(
            files.c.expires_at <= now,
            files.c.deleted_at.is_(None),
            files.c.id.not_in(files_of_live_jobs()),
        )
        .values(deleted_at=now)
    )


def files_of_live_jobs() -> CompoundSelect[tuple[str]]:
    """The ids of all files that jobs read which are not over. Asked once for a whole statement: for each file
    it would take a look at every job."""
    live = jobs.c.status.not_in([str(status) for status in TERMINAL])
    return union_all(
        select(jobs.c.training_file).where(live),
        select(jobs.c.validation_file).where(live, jobs.c.validation_file.is_not(None)),
    )


def _visible(connection: Connection, project: str) -> list[ColumnElement[bool]]:
    expires = files.c.expires_at
    return [
        files.c.project == project,
        files.c.deleted_at.is_(None),
        or_(expires.is_(None), expires > clock(connection)),
    ]


def find_stored_file(connection: Connection, file_id: str) -> FileRecord:
    """A file of a job, whatever became of it since: a live job keeps its files."""
    return to_file(connection.execute(select(files).where(files.c.id == file_id)).mappings().one())
