"""What `serve` tells the person who started it: where it is, how to get in and how to end it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from tunewright.cli.program import program_name
from tunewright.cli.service import HOME


def welcome(url: str, key: str | None, home: Path) -> Iterator[str]:
    """The lines for a server that answers. key: the admin key of a first start; None for a later one."""
    if key:
        yield f"admin key, shown this once: {key}"
    yield f"serving at {url}/v1 (health: {url}/health)"
    yield ""
    yield "in another terminal, for every program that uses OpenAI's client:"
    yield f"  export OPENAI_BASE_URL={url}/v1"
    yield f"  export OPENAI_API_KEY={key or f'$({_make_key(home)})'}"
    yield "Ctrl-C saves running jobs and ends the server; the next start goes on with them"


def _make_key(home: Path) -> str:
    command = [program_name(), "key", "create", "NAME"]
    is_default = home.expanduser() == HOME.expanduser()
    return shlex.join(command if is_default else [*command, "--home", str(home)])
