"""The home folder of a server, for commands that work beside it: whether it is one, and its database."""

from __future__ import annotations

from pathlib import Path

from tunewright.errors import ServiceError
from tunewright.files import replace_file
from tunewright.service.db.opening import was_served, without_password
from tunewright.service.settings import ServeSettings

_DATABASE = "database"


def note_database(settings: ServeSettings) -> None:
    """Note in the home folder which database its server has, without a password. Raises OSError."""
    path = settings.home / _DATABASE
    if settings.database is None:
        path.unlink(missing_ok=True)
    else:
        replace_file(path, [without_password(settings.database).encode()])


def find_server(home: Path, database: str | None) -> ServeSettings:
    """The home folder and the database of a server that was started before. Makes neither.

    database: None takes the one that the server of this home has. Raises ServiceError (`service.no-home`,
    `service.database`) and OSError.
    """
    noted = home / _DATABASE
    if database is None and noted.is_file():
        database = noted.read_text(encoding="utf-8").strip()
    settings = ServeSettings(home=home, database=database)
    if not home.is_dir() or not was_served(settings.database_url):
        raise ServiceError(
            "no server was started with this home folder",
            where=str(home) if database is None else f"{home}, {without_password(database)}",
            hint="start it first, with `tunewright serve`; or give --home (TUNEWRIGHT_HOME) and --database "
            "(TUNEWRIGHT_DATABASE) as the server has them",
            code="service.no-home",
        )
    return settings
