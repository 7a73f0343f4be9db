"""`tunewright key`: the API keys of a server, made where its home folder is."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.service import HOME, DatabaseOption, HomeOption, check_installed

if TYPE_CHECKING:
    from pathlib import Path

    from tunewright.service.context import Service


def create(
    name: Annotated[str, typer.Argument(help="What the key is for, such as a person or a machine.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What the key may do: `jobs` (default), `worker` or `admin`. Repeatable."),
    ] = None,
    project: Annotated[
        str, typer.Option(help="Whose files, jobs and models it sees. Projects see nothing of each other.")
    ] = "default",
    days: Annotated[float | None, typer.Option(min=0, help="Days until it expires. Default: never.")] = None,
    home: HomeOption = HOME,
    database: DatabaseOption = None,
) -> None:
    """Make a key and print it, once."""
    _check_project(project)
    service = _open(home, database)
    from tunewright.service.keys import SCOPES, create_key

    unknown = set(scope or ()) - SCOPES.keys()
    if unknown:
        raise typer.BadParameter(f"--scope {', '.join(sorted(unknown))} is none of {', '.join(SCOPES)}")

    with closing(service.database), service.database.write() as connection:
        made = create_key(
            connection,
            service.pepper,
            name=name[:128],
            project=project,
            scopes=tuple(scope or ("jobs",)),
            seconds=None if days is None else days * 86_400,
        )
    typer.echo(made.secret)


def list_(home: HomeOption = HOME, database: DatabaseOption = None) -> None:
    """List the keys, without their secrets."""
    service = _open(home, database)
    from tunewright.service.db.keys import list_keys

    with closing(service.database), service.database.read() as connection:
        keys = list_keys(connection)
    for key in keys:
        state = "revoked" if key.revoked_at else "expires" if key.expires_at else "live"
        typer.echo(f"{key.id}  {key.hint}…  {state:<8} {key.project}  {','.join(key.scopes)}  {key.name}")


def revoke(
    key_id: Annotated[str, typer.Argument(help="The id that `key list` shows.")],
    home: HomeOption = HOME,
    database: DatabaseOption = None,
) -> None:
    """End a key now."""
    service = _open(home, database)
    from tunewright.errors import ServiceError
    from tunewright.service.db.keys import revoke_key

    with closing(service.database), service.database.write() as connection:
        if not revoke_key(connection, key_id):
            raise ServiceError(
                "no live key has this id",
                where=key_id,
                hint="see: tunewright key list",
                code="service.no-such-key",
            )
    typer.echo(f"revoked: {key_id}")


def _open(home: Path, database: str | None) -> Service:
    check_installed()
    from tunewright.service.server import open_service
    from tunewright.service.settings import ServeSettings

    return open_service(ServeSettings(home=home.expanduser(), database=database))


def _check_project(project: str) -> None:
    import re

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}", project):
        raise typer.BadParameter(f"--project {project} is not a name of letters, digits, `_` and `-`")
