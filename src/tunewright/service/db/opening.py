"""Open the database that an operator named, and say in one sentence what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tunewright.errors import ServiceError
from tunewright.service.db.database import Connection, Database, DatabaseFault
from tunewright.service.db.migrate import missing_migrations, upgrade
from tunewright.service.db.peppers import has_keys, read_fingerprint

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
EXPECTED = "postgresql://USER:PASSWORD@HOST/NAME"

Result = TypeVar("Result")


def open_database(url: str) -> Database:
    """The database with the newest schema. Raises ServiceError (`service.database`)."""
    return _open(url, upgrade)[0]


def open_unchanged(url: str) -> Database:
    """The database with the schema that it has. Raises as open_database."""
    return _open(url, missing_migrations)[0]


def count_missing_migrations(url: str) -> int:
    """How many migrations the next start will run; changes nothing. Raises as open_database."""
    database, missing = _open(url, missing_migrations)
    database.close()
    return missing


def was_served(url: str) -> bool:
    """Return whether a server was started with this database; changes nothing. Raises as open_database."""
    parsed = _parse(url)
    # To open a file of SQLite is to make it.
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        return False
    database, found = _open(url, lambda database: database.ask(_is_in_use))
    database.close()
    return found


def without_password(url: str) -> str:
    """The address as it may be shown, still good for whoever has the password elsewhere."""
    parsed = _parse(url)
    shown = URL.create(
        # The short name is what the documentation uses, and as good.
        parsed.get_backend_name(),
        username=parsed.username,
        host=parsed.host,
        port=parsed.port,
        database=parsed.database,
        query={name: value for name, value in parsed.query.items() if "password" not in name},
    )
    return shown.render_as_string()


def _is_in_use(connection: Connection) -> bool:
    return read_fingerprint(connection) is not None or has_keys(connection)


def _open(url: str, use: Callable[[Database], Result]) -> tuple[Database, Result]:
    parsed = _parse(url)
    shown = parsed.render_as_string(hide_password=True)
    try:
        database = Database(parsed.render_as_string(hide_password=False))
    except ImportError as error:
        raise _fault(
            shown, "the driver of PostgreSQL is missing", "pip install 'tunewright[postgres]'"
        ) from error
    try:
        result = use(database)
    except DatabaseFault as error:
        database.close()
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        hint = "does it run there, and may this user make tables in it?"
        if parsed.password is None and "password" in reason:
            hint = "name the password in PGPASSWORD, or in the address in TUNEWRIGHT_DATABASE"
        raise _fault(shown, f"the database does not answer as it should: {reason}", hint) from error
    return database, result


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        # Not shown: whatever it is, it may hold a password.
        raise _fault("--database", "this is not the address of a database", f"such as {EXPECTED}") from None
    driver = DRIVERS.get(parsed.get_backend_name())
    if driver is None:
        raise _fault("--database", f"{parsed.get_backend_name()} is not supported", f"such as {EXPECTED}")
    return parsed.set(drivername=driver)


def _fault(where: str, what: str, hint: str) -> ServiceError:
    return ServiceError(what, where=where, hint=hint, code="service.database")
