"""What `serve` tells the person who started it: where it is, how to get in and how to end it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from tunewright.cli.program import program_path
from tunewright.cli.service import HOME


def welcome(url: str, key: str | None, home: Path, database: str | None = None) -> Iterator[str]:
    """The lines for a server that answers. key: the admin key of a first start; None for a later one.
    database: its address where the home folder has none."""
    if key:
        yield f"admin key, shown this once: {key}"
    yield f"serving at {url}/v1 (health: {url}/health)"
    yield ""
    yield "in another terminal, for every program that uses OpenAI's client:"
    yield f"  export OPENAI_BASE_URL={url}/v1"
    yield f"  export OPENAI_API_KEY={key or f'$({_make_key(home, database)})'}"
    yield "Ctrl-C saves running jobs and ends the server; the next start goes on with them"


def _make_key(home: Path, database: str | None) -> str:
    command = [program_path(), "key", "create", "NAME"]
    if home.expanduser() != HOME.expanduser():
        command += ["--home", str(home.absolute())]
    if database is not None:
        from tunewright.service.db.opening import without_password

        command += ["--database", without_password(database)]
    return shlex.join(command)
