"""`tunewright worker`: take jobs from a server and train them on this machine."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Annotated

import typer

from tunewright.cli.service import (
    SERVER,
    KeyOption,
    LogFormat,
    LogFormatOption,
    ServerOption,
    check_installed,
    require_key,
)


def command(
    server: ServerOption = SERVER,
    key: KeyOption = None,
    folder: Annotated[Path, typer.Option(help="Where the folders of running jobs lie.")] = Path("work"),
    name: Annotated[str | None, typer.Option(help="Name in the server's list. Default: the host.")] = None,
    log_format: LogFormatOption = LogFormat.TEXT,
    tied: Annotated[bool, typer.Option("--tied", help="End when standard input ends.")] = False,
) -> None:
    """Claim jobs from a server and train them, one at a time.

    Needs a key with the scope `worker`. SIGTERM or Ctrl-C saves the running job and gives it back.
    """
    check_installed()
    from tunewright.service.logs import configure_logging
    from tunewright.service.worker.loop import WorkerSettings, run_worker

    settings = WorkerSettings(
        server, require_key(key, "worker"), folder.absolute(), name or socket.gethostname(), tied
    )
    if log_format is LogFormat.JSON:
        configure_logging("json")
    else:
        logging.basicConfig(
            level=logging.WARNING, format="%(asctime)s worker: %(message)s", datefmt="%H:%M:%S"
        )
        logging.getLogger("tunewright.worker").setLevel(logging.INFO)
    if not tied:
        typer.echo(f"takes jobs from {server}, trains them in {settings.folder}", err=True)
        typer.echo("Ctrl-C saves the running job and gives it back", err=True)
    run_worker(settings)
