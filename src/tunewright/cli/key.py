"""`tunewright key`: the API keys of a server, made where its home folder is. Each change is audited."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.service import HOME, DatabaseOption, HomeOption, check_installed

if TYPE_CHECKING:
    from pathlib import Path

    from tunewright.errors import ServiceError
    from tunewright.service.context import Service
    from tunewright.service.records import KeyRecord

KeyIdArgument = Annotated[str, typer.Argument(help="The id that `key list` shows.")]


def create(
    name: Annotated[str, typer.Argument(help="What the key is for, such as a person or a machine.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What the key may do: `jobs` (default), `worker`, `metrics` or `admin`. Repeatable."
        ),
    ] = None,
    project: Annotated[
        str, typer.Option(help="Whose files, jobs and models it sees. Projects see nothing of each other.")
    ] = "default",
    days: Annotated[float | None, typer.Option(min=0, help="Days until it expires. Default: never.")] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="A limit of its own. Default: the server's.")
    ] = None,
    home: HomeOption = HOME,
    database: DatabaseOption = None,
) -> None:
    """Make a key and print it, once."""
    _check_project(project)
    check_installed()
    from tunewright.service.keys import SCOPES, create_key

    unknown = set(scope or ()) - SCOPES.keys()
    if unknown:
        raise typer.BadParameter(f"--scope {', '.join(sorted(unknown))} is none of {', '.join(SCOPES)}")
    with closing(_open(home, database)) as opened:
        service = opened.service
        with service.database.write() as connection:
            made = create_key(
                connection,
                service.pepper,
                name=name[:128],
                project=project,
                scopes=tuple(scope or ("jobs",)),
                seconds=None if days is None else days * 86_400,
                requests_per_minute=requests_per_minute,
            )
        opened.audit("key create", made.record.id, project)
    typer.echo(made.secret)


def list_(home: HomeOption = HOME, database: DatabaseOption = None) -> None:
    """List the keys, without their secrets."""
    check_installed()
    from tunewright.service.db.database import clock
    from tunewright.service.db.keys import list_keys

    with closing(_open(home, database)) as opened, opened.service.database.read() as connection:
        keys, now = list_keys(connection), clock(connection)
    for key in keys:
        used = "used " + _day(key.last_used_at) if key.last_used_at else "never used"
        parts = [key.id, f"{key.hint}…", f"{_state(key, now):<18}", key.project, ",".join(key.scopes)]
        typer.echo("  ".join([*parts, used, key.name]))


def revoke(key_id: KeyIdArgument, home: HomeOption = HOME, database: DatabaseOption = None) -> None:
    """End a key now."""
    check_installed()
    from tunewright.service.db.keys import revoke_key

    with closing(_open(home, database)) as opened:
        with opened.service.database.write() as connection:
            if not revoke_key(connection, key_id):
                raise _no_such_key(key_id)
        opened.audit("key revoke", key_id)
    typer.echo(f"revoked: {key_id}")


def rotate(
    key_id: KeyIdArgument,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="How long the present secret stays good beside the new one.")
    ] = 24.0,
    home: HomeOption = HOME,
    database: DatabaseOption = None,
) -> None:
    """Give a key a new secret and print it, once. Its id, project, scopes and expiry stay."""
    check_installed()
    from tunewright.service.keys import rotate_key

    with closing(_open(home, database)) as opened:
        service = opened.service
        with service.database.write() as connection:
            secret = rotate_key(connection, service.pepper, key_id, grace_hours * 3600)
        if secret is None:
            raise _no_such_key(key_id)
        opened.audit("key rotate", key_id)
    typer.echo(secret)


def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether every key may end.")] = False,
    home: HomeOption = HOME,
    database: DatabaseOption = None,
) -> None:
    """End every key and print a new admin key, once: the way out when the `pepper` of the server is lost.

    Stop the server first; other servers of the same database need the new `pepper`.
    """
    check_installed()
    from tunewright.service.home import find_server
    from tunewright.service.resetting import reset_keys

    settings = find_server(home.expanduser(), database)
    if not yes:
        typer.confirm(
            "Every key of this server ends, also those of its workers. Go on?", abort=True, err=True
        )
    typer.echo(reset_keys(settings, _user()))


class _Opened:
    """The service of a home folder, for one command."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def audit(self, action: str, key_id: str, project: str | None = None) -> None:
        """Note who changed which key."""
        from tunewright.service.audit import DONE, AuditEntry

        entry = AuditEntry(action, DONE, {"key_id": key_id}, project=project, user=_user())
        self.service.audit.write(entry)

    def close(self) -> None:
        """Close the database."""
        self.service.database.close()


def _open(home: Path, database: str | None) -> _Opened:
    from tunewright.service.home import find_server
    from tunewright.service.server import open_service

    return _Opened(open_service(find_server(home.expanduser(), database)))


def _user() -> str:
    import getpass

    return getpass.getuser()


def _state(key: KeyRecord, now: float) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return "live"
    return f"expired {_day(key.expires_at)}" if key.expires_at <= now else f"until {_day(key.expires_at)}"


def _day(moment: float) -> str:
    from datetime import datetime

    return f"{datetime.fromtimestamp(moment).astimezone():%Y-%m-%d}"


def _no_such_key(key_id: str) -> ServiceError:
    from tunewright.errors import ServiceError

    return ServiceError(
        "no live key has this id",
        where=key_id,
        hint="see: tunewright key list",
        code="service.no-such-key",
    )


def _check_project(project: str) -> None:
    import re

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}", project):
        raise typer.BadParameter(f"--project {project} is not a name of letters, digits, `_` and `-`")
