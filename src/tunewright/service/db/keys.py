"""Rows of API keys. Only hashes of secrets come here."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, and_, bindparam, case, func, insert, or_, select, update

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
            requests_per_minute=key.requests_per_minute,
        )
    )


# Made once: making a statement takes five times as long as SQLite needs to answer it, and one of these comes
# with every request.
_IS_LIVE = and_(
    keys.c.revoked_at.is_(None),
    or_(keys.c.expires_at.is_(None), keys.c.expires_at > bindparam("now")),
)
_LIVE_KEY = select(keys).where(
    or_(
        keys.c.secret_hash == bindparam("hash"),
        and_(keys.c.previous_hash == bindparam("hash"), keys.c.previous_until > bindparam("now")),
    ),
    _IS_LIVE,
)
_LIVE_ID = select(keys.c.id).where(keys.c.id == bindparam("id"), _IS_LIVE)


def find_key(connection: Connection, secret_hash: str) -> KeyRecord | None:
    """The key with this hash, now or before its last rotation, if it is good for anything at this moment."""
    values = {"hash": secret_hash, "now": clock(connection)}
    row = connection.execute(_LIVE_KEY, values).mappings().first()
    return to_key(row) if row else None


def is_live(connection: Connection, key_id: str) -> bool:
    """Whether the key is good for anything at this moment; for answers that go on long after its check."""
    values = {"id": key_id, "now": clock(connection)}
    return connection.execute(_LIVE_ID, values).first() is not None


def replace_secret(
    connection: Connection, key_id: str, *, secret_hash: str, hint: str, grace_seconds: float
) -> bool:
    """Give a live key another secret; the one it had stays good for a while. False when there is no such
    key. A secret from before that one ends now."""
    now = clock(connection)
    changed = connection.execute(
        update(keys)
        .where(
            keys.c.id == key_id,
            keys.c.revoked_at.is_(None),
            or_(keys.c.expires_at.is_(None), keys.c.expires_at > now),
        )
        .values(
            previous_hash=keys.c.secret_hash,
            previous_until=now + grace_seconds,
            secret_hash=secret_hash,
            hint=hint,
        )
    )
    return changed.rowcount == 1


def note_uses(connection: Connection, uses: Mapping[str, float]) -> None:
    """Record when keys were last used, by their ids. A time never goes back."""
    for key_id, moment in sorted(uses.items()):
        known = keys.c.last_used_at
        later = case((or_(known.is_(None), known < moment), moment), else_=known)
        connection.execute(update(keys).where(keys.c.id == key_id).values(last_used_at=later))


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


def revoke_all(connection: Connection) -> int:
    """End every key that is not revoked yet, and return how many those were."""
    ended = update(keys).where(keys.c.revoked_at.is_(None)).values(revoked_at=clock(connection))
    return connection.execute(ended).rowcount


def revoke_named(connection: Connection, name: str) -> None:
    """End every live key of this name."""
    connection.execute(
        update(keys)
        .where(keys.c.name == name, keys.c.revoked_at.is_(None))
        .values(revoked_at=clock(connection))
    )
