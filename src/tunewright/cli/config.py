"""`tunewright config`: check a run file, show where each value comes from. Loads no engine and no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tunewright.config.load import LoadedConfig

ConfigFile = Annotated[Path, typer.Argument(help="Run file (YAML).", metavar="FILE", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, such as train.epochs=2. Repeatable."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def check(file: ConfigFile, overrides: Overrides = None) -> None:
    """Name everything wrong with a run file, all at once.

    Checks keys, values, settings that contradict each other, and that the files it names are there.
    Exit code 1 when anything is wrong.
    """
    from tunewright.config.load import DEFAULT, check_files, load_config

    loaded = load_config(file, overrides=overrides or ())
    check_files(loaded)
    chosen = sum(origin != DEFAULT for origin in loaded.origins.values())
    typer.echo(f"ok: {file}: {chosen} settings given, {len(loaded.origins) - chosen} by default")
    typer.echo(f"next: {_train_line(file, overrides or [])}")


def _train_line(file: Path, overrides: list[str]) -> str:
    import shlex

    from tunewright.cli.program import program_name

    changes = [word for override in overrides for word in ("--set", override)]
    return shlex.join([program_name(), "train", str(file), *changes])


def show(file: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print each setting of a run file with its value and where that value comes from.

    A value comes from a line of the file, a preset, --set, or the default. `auto` is resolved when training
    starts.
    """
    from tunewright.config.load import config_hash, load_config

    loaded = load_config(file, overrides=overrides or ())
    if as_json:
        document = {
            "config": loaded.config.model_dump(mode="json"),
            "origins": dict(loaded.origins),
            "hash": config_hash(loaded.config),
        }
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    for line in _table(loaded):
        typer.echo(line)


def _table(loaded: LoadedConfig) -> list[str]:
    from tunewright.config.faults import shown
    from tunewright.config.load import leaves
    from tunewright.config.node import dotted

    rows = [
        (dotted(path), shown(value), loaded.origins[dotted(path)])
        for path, value in leaves(loaded.config.model_dump(mode="json"))
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{key:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for key, value, origin in rows]
