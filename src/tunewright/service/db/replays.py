"""What a create call made, so that the same call sent twice makes one object."""

from __future__ import annotations

import hashlib

from sqlalchemy import Connection, delete, insert, select, update

from tunewright.service.db.database import clock, hold_name
from tunewright.service.db.tables import replays

REMEMBERED_SECONDS = 600.0


def request_hash(*parts: str | bytes) -> str:
    """One name for a request: its key, path and body, or its key, path and Idempotency-Key."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def find_replay(connection: Connection, name: str) -> str | None:
    """The id of what this request made within the last ten minutes. Holds the name until the transaction
    ends, so that the same request in flight on another connection waits."""
    hold_name(connection, name)
    horizon = clock(connection) - REMEMBERED_SECONDS
    return connection.execute(
        select(replays.c.object_id).where(replays.c.request_hash == name, replays.c.created_at > horizon)
    ).scalar_one_or_none()


def remember(connection: Connection, name: str, object_id: str) -> None:
    """Note what this request made. Forgets what is too old to be asked for."""
    now = clock(connection)
    connection.execute(delete(replays).where(replays.c.created_at < now - REMEMBERED_SECONDS))
    values = {"object_id": object_id, "created_at": now}
    changed = connection.execute(update(replays).where(replays.c.request_hash == name).values(**values))
    if changed.rowcount == 0:
        connection.execute(insert(replays).values(request_hash=name, **values))
