"""What a create call made, so that the same call sent twice makes one object."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from tunewright.service.db.database import clock, hold_name
from tunewright.service.db.tables import replays

REMEMBERED_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Replay:
    """A request that was answered: what it made, and a hash of its body where its name says nothing of it."""

    object_id: str
    body_hash: str | None


def request_hash(*parts: str | bytes) -> str:
    """One name for a request: its key, path and body, or its key, path and Idempotency-Key."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def try_to_write(connection: Connection) -> None:
    """Write a line that means nothing, and that the next `remember` removes. Raises DatabaseFault."""
    connection.execute(delete(replays).where(replays.c.request_hash == "room"))
    connection.execute(insert(replays).values(request_hash="room", object_id="", created_at=0.0))


def find_replay(connection: Connection, name: str) -> Replay | None:
    """The request of this name of the last ten minutes. Holds the name until the transaction ends, so that
    the same request in flight on another connection waits."""
    hold_name(connection, name)
    horizon = clock(connection) - REMEMBERED_SECONDS
    columns = select(replays.c.object_id, replays.c.body_hash)
    row = connection.execute(
        columns.where(replays.c.request_hash == name, replays.c.created_at > horizon)
    ).first()
    return None if row is None else Replay(row.object_id, row.body_hash)


def remember(connection: Connection, name: str, replay: Replay) -> None:
    """Note what the request of this name made. Forgets what is too old to be asked for."""
    now = clock(connection)
    connection.execute(delete(replays).where(replays.c.created_at < now - REMEMBERED_SECONDS))
    values = {"object_id": replay.object_id, "body_hash": replay.body_hash, "created_at": now}
    changed = connection.execute(update(replays).where(replays.c.request_hash == name).values(**values))
    if changed.rowcount == 0:
        connection.execute(insert(replays).values(request_hash=name, **values))
