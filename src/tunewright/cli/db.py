"""`tunewright db`: the database of a server, while the server is stopped."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from tunewright.cli.service import HOME, DatabaseOption, HomeOption, check_installed
from tunewright.errors import ServiceError


def upgrade(home: HomeOption = HOME, database: DatabaseOption = None) -> None:
    """Bring the database to the newest schema. `tunewright serve` does the same when it starts."""
    check_installed()
    from tunewright.service.db.opening import count_missing_migrations, open_database

    url = _url(home, database)
    missing = count_missing_migrations(url)
    open_database(url).close()
    typer.echo(f"upgraded: {missing} migrations" if missing else "up to date: nothing to do")


def copy(
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The empty database: postgresql://…")],
    home: HomeOption = HOME,
    database: DatabaseOption = None,
) -> None:
    """Copy everything into an empty database, such as from SQLite to PostgreSQL, and count it there.

    Stop the server first. Files, models and the secret of the keys stay in the home folder.
    """
    check_installed()
    from tunewright.service.db.copying import copy_database
    from tunewright.service.db.opening import open_database
    from tunewright.service.server import hold_home

    home = home.expanduser()
    if database is None and not (home / "tunewright.db").exists():
        raise ServiceError(
            "no database is here",
            where=str(home),
            hint="name the home folder of the server with --home, or its database with --database",
            code="service.no-database",
        )
    with (
        hold_home(home),
        closing(open_database(_url(home, database))) as source,
        closing(open_database(to)) as target,
    ):
        counts = copy_database(source, target)
    for table, rows in counts.items():
        typer.echo(f"{table:<16} {rows:>10}")
    typer.echo("copied: start the server with this database as --database, or as TUNEWRIGHT_DATABASE")


def _url(home: Path, database: str | None) -> str:
    from tunewright.service.settings import ServeSettings

    return ServeSettings(home=home.expanduser(), database=database).database_url
