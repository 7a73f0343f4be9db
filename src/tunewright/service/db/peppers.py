"""The fingerprint of the pepper: a table of one row."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, inspect, select

from tunewright.service.db.database import hold_name
from tunewright.service.db.tables import keys, peppers

_PEPPER = "9e99e20b5c4f1d08"


def hold_pepper(connection: Connection) -> None:
    """Let no other server read or write the fingerprint until the transaction ends."""
    hold_name(connection, _PEPPER)


def read_fingerprint(connection: Connection) -> str | None:
    """The fingerprint; None in a database that has none yet, or is older than its table."""
    if not inspect(connection).has_table(peppers.name):
        return None
    return connection.execute(select(peppers.c.fingerprint)).scalar_one_or_none()


def put_fingerprint(connection: Connection, fingerprint: str) -> None:
    """Store the fingerprint in place of any other."""
    connection.execute(delete(peppers))
    connection.execute(insert(peppers).values(fingerprint=fingerprint))


def has_keys(connection: Connection) -> bool:
    """Return whether keys were ever made, which one pepper fits. An empty database has no table of them."""
    if not inspect(connection).has_table(keys.name):
        return False
    return connection.execute(select(keys.c.id).limit(1)).first() is not None
