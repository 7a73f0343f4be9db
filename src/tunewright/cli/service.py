"""Options that the commands of the service share, and what they need before they can start."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from tunewright.cli.program import program_name
from tunewright.errors import ServiceError

SERVER = "http://127.0.0.1:8200"
HOME = Path("~/.tunewright")
NEEDED = ("alembic", "fastapi", "httpx2", "prometheus_client", "python_multipart", "sqlalchemy", "uvicorn")


class Inference(StrEnum):
    """When a server answers chats."""

    WAIT = "wait"
    CPU = "cpu"
    OFF = "off"


class LogFormat(StrEnum):
    """How a process of the service logs."""

    TEXT = "text"
    JSON = "json"


ServerOption = Annotated[
    str, typer.Option(envvar="TUNEWRIGHT_SERVER", help="Address of the server.", metavar="URL")
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        envvar="TUNEWRIGHT_KEY", help="API key. In the environment other users of the machine cannot see it."
    ),
]
UserServerOption = Annotated[
    str,
    typer.Option(
        "--server",
        envvar=["TUNEWRIGHT_SERVER", "OPENAI_BASE_URL"],
        help="Address of the server.",
        metavar="URL",
    ),
]
UserKeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar=["TUNEWRIGHT_KEY", "OPENAI_API_KEY"],
        help="API key. In the environment other users of the machine cannot see it.",
    ),
]
HomeOption = Annotated[
    Path,
    typer.Option(envvar="TUNEWRIGHT_HOME", help="Folder with database, files and the secret of the keys."),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="TUNEWRIGHT_DATABASE",
        help="postgresql+psycopg://… in place of SQLite in the home folder.",
    ),
]
LogFormatOption = Annotated[
    LogFormat,
    typer.Option(
        envvar="TUNEWRIGHT_LOG_FORMAT",
        help="Log on stderr: lines for a person, or JSON with a line for every request.",
    ),
]


def check_installed() -> None:
    """Raise ServiceError (`service.not-installed`) when a library of the service is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ServiceError(
            "libraries of the service are not installed",
            got=f"no {', '.join(missing)}",
            hint="pip install 'tunewright[service]'",
            code="service.not-installed",
        )


def require_key(key: str | None, scope: str = "jobs") -> str:
    """The key, or ServiceError (`service.no-key`). scope: that of a key which would do."""
    if key:
        return key
    raise ServiceError(
        "no API key was given",
        expected="TUNEWRIGHT_KEY in the environment" + (" or OPENAI_API_KEY" if scope == "jobs" else ""),
        hint=f"make a key with: {program_name()} key create NAME --scope {scope}",
        code="service.no-key",
    )
