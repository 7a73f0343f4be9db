"""Rows of API keys. Only hashes of secrets come here."""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, select, update

from tunewright.service.db.database import clock
from tunewright.service.db.rows import to_key
from tunewright.service.db.tables import keys
from tunewright.service.records import KeyRecord


def add_key(connection: Connection, key: KeyRecord, secret_hash: str) -> None:
    """Store a new key."""
    connection.execute(
        insert(keys).values(
            id=key.id,
            project=key.project,
            name=key.name,
            hint=key.hint,
            secret_hash=secret_hash,
            scopes=list(key.scopes),
            created_at=key.created_at,
            expires_at=key.expires_at,
        )
    )


def find_key(connection: Connection, secret_hash: str) -> KeyRecord | None:
    """The key with this hash, if it is neither revoked nor expired."""
    row = connection.execute(select(keys).where(keys.c.secret_hash == secret_hash)).mappings().first()
    if row is None or row["revoked_at"] is not None:
        return None
    expired = row["expires_at"] is not None and row["expires_at"] <= clock(connection)
    return None if expired else to_key(row)


def list_keys(connection: Connection) -> list[KeyRecord]:
    """Every key, oldest first."""
    return [to_key(row) for row in connection.execute(select(keys).order_by(keys.c.created_at)).mappings()]


def count_keys(connection: Connection) -> int:
    """How many keys were ever made."""
    return connection.execute(select(func.count()).select_from(keys)).scalar_one()


def revoke_key(connection: Connection, key_id: str) -> bool:
    """End a key now. False when there is none, or it was revoked before."""
    changed = connection.execute(
        update(keys)
        .where(keys.c.id == key_id, keys.c.revoked_at.is_(None))
        .values(revoked_at=clock(connection))
    )
    return changed.rowcount == 1


def revoke_named(connection: Connection, name: str) -> None:
    """End every live key of this name."""
    connection.execute(
        update(keys)
        .where(keys.c.name == name, keys.c.revoked_at.is_(None))
        .values(revoked_at=clock(connection))
    )
