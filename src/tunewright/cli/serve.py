"""`tunewright serve`: the fine-tuning service on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from tunewright.cli.service import HOME, DatabaseOption, HomeOption, check_installed
from tunewright.cli.welcome import welcome


def command(
    home: HomeOption = HOME,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8200,
    database: DatabaseOption = None,
    workers: Annotated[int, typer.Option(min=0, help="Workers started on this machine.")] = 1,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="NAME=MODEL", help="Offer a base model: a hub id or a folder. Repeatable."
        ),
    ] = None,
    lease_seconds: Annotated[
        float, typer.Option(min=1, help="A job whose worker is silent for so long is given to another one.")
    ] = 60.0,
) -> None:
    """Serve the OpenAI fine-tuning API, with a queue and a worker.

    The first start prints an admin key. SIGTERM or Ctrl-C saves running jobs and ends everything.
    """
    check_installed()
    from tunewright.service.server import run_server
    from tunewright.service.settings import BUILTIN_MODEL, ServeSettings

    settings = ServeSettings(
        home=home.expanduser(),
        host=host,
        port=port,
        database=database,
        workers=workers,
        lease_seconds=lease_seconds,
        models={BUILTIN_MODEL: BUILTIN_MODEL, **dict(map(_read_model, models or ()))},
    )

    def ready(url: str, key: str | None) -> None:
        typer.echo("\n".join(welcome(url, key, settings.home)))

    run_server(settings, typer.echo, ready)


def _read_model(text: str) -> tuple[str, str]:
    name, _, model = text.partition("=")
    if not model or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,95}", name):
        raise typer.BadParameter(
            f"--model {text} is not NAME=MODEL, such as qwen=Qwen/Qwen3-0.6B; a name has letters, digits, "
            "`.`, `_`, `:` and `-`"
        )
    folder = Path(model).expanduser()
    return name, str(folder.resolve()) if folder.is_dir() else model
