"""`tunewright serve`: the fine-tuning service on this machine."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.service import (
    HOME,
    DatabaseOption,
    HomeOption,
    Inference,
    LogFormat,
    LogFormatOption,
    check_installed,
)
from tunewright.cli.settings_file import ConfigOption
from tunewright.cli.welcome import welcome

if TYPE_CHECKING:
    from tunewright.service.settings import Limits


def command(
    config: ConfigOption = None,
    home: HomeOption = HOME,
    host: Annotated[
        str,
        typer.Option(envvar="TUNEWRIGHT_HOST", help="Address to listen on; 0.0.0.0 lets other machines in."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="TUNEWRIGHT_PORT", help="Port; 0 takes a free one.")
    ] = 8200,
    database: DatabaseOption = None,
    workers: Annotated[
        int, typer.Option(min=0, envvar="TUNEWRIGHT_WORKERS", help="Workers started on this machine.")
    ] = 1,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME=MODEL",
            envvar="TUNEWRIGHT_MODELS",
            help="Offer a base model: a hub id or a folder. Repeatable.",
        ),
    ] = None,
    lease_seconds: Annotated[
        float,
        typer.Option(
            min=1,
            envvar="TUNEWRIGHT_LEASE_SECONDS",
            help="A job whose worker is silent for so long is given to another one.",
        ),
    ] = 60.0,
    limits: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="NAME=NUMBER",
            envvar="TUNEWRIGHT_LIMITS",
            help="What a key or project may take, such as project_jobs=20; 0 is no limit. Repeatable.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(envvar="TUNEWRIGHT_TLS_CERT", help="Certificate with its chain, PEM. Needs --tls-key."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(envvar="TUNEWRIGHT_TLS_KEY", help="Private key of the certificate, PEM.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="TUNEWRIGHT_DATA_DIR", help="Folder whose files jobs may name in place of an upload."
        ),
    ] = None,
    inference: Annotated[
        Inference,
        typer.Option(
            envvar="TUNEWRIGHT_INFERENCE",
            help="Answer chats: `wait` on the accelerator, but not while a job trains on it; `cpu` always; "
            "`off` never.",
        ),
    ] = Inference.WAIT,
    inference_memory: Annotated[
        float,
        typer.Option(
            min=0,
            envvar="TUNEWRIGHT_INFERENCE_MEMORY",
            help="GiB that models loaded for chats may take; 0 is a quarter of the memory.",
        ),
    ] = 0.0,
    log_format: LogFormatOption = LogFormat.TEXT,
    check: Annotated[
        bool, typer.Option("--check", help="Say whether the server could start, and start nothing.")
    ] = False,
) -> None:
    """Serve the OpenAI fine-tuning API, with a queue and a worker.

    The first start prints an admin key. SIGTERM or Ctrl-C saves running jobs and ends everything.
    """
    check_installed()
    from tunewright.service.inference.settings import InferenceSettings
    from tunewright.service.logs import configure_logging
    from tunewright.service.server import run_server
    from tunewright.service.settings import BUILTIN_MODEL, ServeSettings, Tls

    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key belong together")
    configure_logging(log_format.value)

    settings = ServeSettings(
        home=home.expanduser(),
        host=host,
        port=port,
        database=database,
        workers=workers,
        lease_seconds=lease_seconds,
        models={BUILTIN_MODEL: BUILTIN_MODEL, **dict(map(_read_model, models or ()))},
        limits=_read_limits(limits or ()),
        tls=Tls(tls_cert, tls_key) if tls_cert and tls_key else None,
        log_format=log_format.value,
        data_dir=_read_data_dir(data_dir),
        inference=InferenceSettings(inference.value, int(inference_memory * 2**30)),
    )
    if check:
        from tunewright.service.readiness import check_server

        for line in check_server(settings):
            typer.echo(line)
        typer.echo("the server can start")
        return

    def ready(url: str, key: str | None) -> None:
        typer.echo("\n".join(welcome(url, key, settings.home)))

    run_server(settings, typer.echo, ready)


def _read_data_dir(given: Path | None) -> Path | None:
    if given is not None and not given.expanduser().is_dir():
        raise typer.BadParameter(f"--data-dir {given} is not a folder")
    return given.expanduser().absolute() if given else None


def _read_limits(texts: Iterable[str]) -> Limits:
    from tunewright.service.settings import UNLIMITED_BY_ZERO, Limits

    names = [field.name for field in dataclasses.fields(Limits)]
    given: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in names or not number.isdecimal():
            raise typer.BadParameter(
                f"--limit {text} is not NAME=NUMBER with a whole number and one of {', '.join(names)}"
            )
        given[name] = int(number)
        if not given[name] and name not in UNLIMITED_BY_ZERO:
            raise typer.BadParameter(f"--limit {text}: {name} has to be 1 or more")
    return Limits(**given)


def _read_model(text: str) -> tuple[str, str]:
    name, _, model = text.partition("=")
    if not model or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,95}", name):
        raise typer.BadParameter(
            f"--model {text} is not NAME=MODEL, such as qwen=Qwen/Qwen3-0.6B; a name has letters, digits, "
            "`.`, `_`, `:` and `-`"
        )
    folder = Path(model).expanduser()
    return name, str(folder.resolve()) if folder.is_dir() else model
