"""`tunewright serve`: the fine-tuning service on this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from tunewright.cli import serve_options as options
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
    from tunewright.service.settings import ServeSettings


def command(
    config: ConfigOption = None,
    home: HomeOption = HOME,
    host: options.HostOption = "127.0.0.1",
    port: options.PortOption = 8200,
    database: DatabaseOption = None,
    workers: options.WorkersOption = 1,
    models: options.ModelsOption = None,
    lease_seconds: options.LeaseSecondsOption = 60.0,
    limits: options.LimitsOption = None,
    tls_cert: options.TlsCertOption = None,
    tls_key: options.TlsKeyOption = None,
    proxy: options.ProxyOption = None,
    cors_origin: options.CorsOriginOption = None,
    data_dir: options.DataDirOption = None,
    inference: options.InferenceOption = Inference.WAIT,
    inference_memory: options.InferenceMemoryOption = 0.0,
    log_format: LogFormatOption = LogFormat.TEXT,
    check: options.CheckOption = False,
) -> None:
    """Serve the OpenAI fine-tuning API, with a queue and a worker.

    The first start prints an admin key. SIGTERM or Ctrl-C saves running jobs and ends everything.
    """
    check_installed()
    from tunewright.service.inference.settings import InferenceSettings
    from tunewright.service.logs import configure_logging
    from tunewright.service.server import run_server
    from tunewright.service.settings import BUILTIN_MODEL, ServeSettings

    settings = ServeSettings(
        home=home.expanduser(),
        host=host,
        port=port,
        database=database,
        workers=workers,
        lease_seconds=lease_seconds,
        models={BUILTIN_MODEL: BUILTIN_MODEL, **options.read_models(models or ())},
        limits=options.read_limits(limits or ()),
        tls=options.read_tls(tls_cert, tls_key),
        proxies=options.read_proxies(proxy or ()),
        cors_origins=options.read_origins(cors_origin or ()),
        log_format=log_format.value,
        data_dir=options.read_data_dir(data_dir),
        inference=InferenceSettings(inference.value, int(inference_memory * 2**30)),
    )
    settings = _without_engine(settings)
    configure_logging(log_format.value)
    if check:
        from tunewright.service.readiness import check_server

        for line in check_server(settings):
            typer.echo(line)
        typer.echo("the server can start")
        return

    def ready(url: str, key: str | None) -> None:
        typer.echo("\n".join(welcome(url, key, settings.home, settings.database)))

    run_server(settings, typer.echo, ready)


def _without_engine(settings: ServeSettings) -> ServeSettings:
    """The settings as they are, or on a machine that cannot train without what needs an engine."""
    from tunewright.service.inference.settings import InferenceSettings
    from tunewright.service.worker.machine import installed_engines

    if installed_engines():
        return settings
    typer.echo("no engine is installed: jobs wait for workers elsewhere, chats are refused", err=True)
    return replace(settings, workers=0, inference=InferenceSettings("off"))
