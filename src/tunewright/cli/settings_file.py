"""`--config FILE`: the options of a command from a TOML file. Flags and the environment win over it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, cast

import typer


def read_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Take the file's values as the defaults of the command's options. Raises typer.BadParameter."""
    if path is None:
        return None
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise typer.BadParameter(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    known = {str(option.name) for option in context.command.params} - {"config", "help"}
    for name in given.keys() - known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise typer.BadParameter(f"{path}: {name} is not a setting{hint}")
    context.default_map = {**(context.default_map or {}), **{key: _flat(given[key]) for key in given}}
    return path


def _flat(value: Any) -> Any:
    """A table is what a flag that stands several times would say: `NAME=VALUE` each."""
    if isinstance(value, dict):
        return [f"{name}={inner}" for name, inner in cast("Mapping[str, object]", value).items()]
    return value


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="TUNEWRIGHT_SERVE_CONFIG",
        callback=read_settings,
        is_eager=True,
        help="TOML file with these options by their names, `_` for `-`; `models` and `limits` are tables.",
    ),
]
