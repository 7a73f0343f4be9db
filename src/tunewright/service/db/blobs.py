"""Which stored bytes are known, and which of them nothing refers to any more."""

from __future__ import annotations

from sqlalchemy import Connection, delete, exists, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tunewright.service.db.database import clock
from tunewright.service.db.files import files_of_live_jobs
from tunewright.service.db.tables import artifact_files, artifacts, blobs, files, jobs
from tunewright.service.jobs import TERMINAL

_INSERTS = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
GRACE_SECONDS = 24 * 3600
"""How long bytes stay that nothing refers to: an artifact's files come first, its row last."""


def add_blob(connection: Connection, sha256: str, size: int) -> None:
    """Record stored bytes, or that they were stored once more."""
    now = clock(connection)
    insert = _INSERTS[connection.dialect.name](blobs)
    row = insert.values(sha256=sha256, bytes=size, touched_at=now)
    # In one statement: of two who store the same bytes at once neither sees the other's row.
    connection.execute(row.on_conflict_do_update(index_elements=["sha256"], set_={"touched_at": now}))


def is_known(connection: Connection, sha256: str) -> bool:
    """Whether these bytes are recorded."""
    return connection.execute(select(blobs.c.sha256).where(blobs.c.sha256 == sha256)).first() is not None


def known_blobs(connection: Connection, hashes: set[str]) -> set[str]:
    """Those of `hashes` that are stored. They count as stored just now."""
    found = set(connection.execute(select(blobs.c.sha256).where(blobs.c.sha256.in_(hashes))).scalars())
    connection.execute(update(blobs).where(blobs.c.sha256.in_(found)).values(touched_at=clock(connection)))
    return found


def take_unused(connection: Connection, limit: int = 1000) -> list[str]:
    """Forget blobs that no file, no artifact and no live job needs, and return their hashes for removal."""
    live = jobs.c.status.not_in([str(status) for status in TERMINAL])
    # A live job keeps its files and the model that it starts from, whatever becomes of them.
    by_file = exists().where(
        files.c.sha256 == blobs.c.sha256,
        or_(files.c.deleted_at.is_(None), files.c.id.in_(files_of_live_jobs())),
    )
    by_artifact = exists().where(
        artifact_files.c.sha256 == blobs.c.sha256,
        artifact_files.c.artifact_id == artifacts.c.id,
        or_(artifacts.c.deleted_at.is_(None), artifacts.c.name.in_(select(jobs.c.model).where(live))),
    )
    old = blobs.c.touched_at < clock(connection) - GRACE_SECONDS
    unused = list(
        connection.execute(
            select(blobs.c.sha256).where(old, ~by_file, ~by_artifact).limit(limit).with_for_update()
        ).scalars()
    )
    connection.execute(delete(blobs).where(blobs.c.sha256.in_(unused)))
    return unused
