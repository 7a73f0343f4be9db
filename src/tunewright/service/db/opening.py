"""Open the database that an operator named, and say in one sentence what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tunewright.errors import ServiceError
from tunewright.service.db.database import Database, DatabaseFault
from tunewright.service.db.migrate import missing_migrations, upgrade

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
EXPECTED = "postgresql://USER:PASSWORD@HOST/NAME"

Result = TypeVar("Result")


def open_database(url: str) -> Database:
    """The database with the newest schema. Raises ServiceError (`service.database`)."""
    return _open(url, upgrade)[0]


def count_missing_migrations(url: str) -> int:
    """How many migrations the next start will run; changes nothing. Raises as open_database."""
    database, missing = _open(url, missing_migrations)
    database.close()
    return missing


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
