"""What `serve` tells the person who started it: where it is, how to get in and how to end it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from tunewright.cli.program import program_path
from tunewright.cli.service import HOME, SERVER


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
    if demo := os.environ.get("TUNEWRIGHT_NEXT"):
        yield f"or see it work: {_demo(demo, url, home)}"
    yield "Ctrl-C saves running jobs and ends the server; the next start goes on with them"


def _demo(command: str, url: str, home: Path) -> str:
    """The next target of `make serve`, which says its name in TUNEWRIGHT_NEXT."""
    words = shlex.split(command)
    if url != SERVER:
        words.append(f"SERVER={url}")
    if home.expanduser() != HOME.expanduser():
        words.append(f"HOME_FOLDER={home.absolute()}")
    return shlex.join(words)


def _make_key(home: Path, database: str | None) -> str:
    command = [program_path(), "key", "create", "NAME"]
    if home.expanduser() != HOME.expanduser():
        command += ["--home", str(home.absolute())]
    if database is not None:
        from tunewright.service.db.opening import without_password

        command += ["--database", without_password(database)]
    return shlex.join(command)
