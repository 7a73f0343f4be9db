"""`serve --check`: everything that a start needs, without starting and without changing the database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from tunewright.service.db.opening import count_missing_migrations, open_unchanged
from tunewright.service.pepper import check_pepper, pepper_path
from tunewright.service.server import hold_home, listen
from tunewright.service.serving import check_tls
from tunewright.service.settings import BUILTIN_MODEL, ServeSettings
from tunewright.service.worker.machine import installed_engines

GIB = 2**30


def check_server(settings: ServeSettings) -> Iterator[str]:
    """A line for each thing that is as it should be.

    Raises ServiceError for the first that would keep the server from starting.
    """
    with hold_home(settings.home):
        yield f"home: {settings.home} ({shutil.disk_usage(settings.home).free / GIB:.0f} GiB free)"
        with listen(settings) as listener:
            yield "address: {}:{} is free".format(*listener.getsockname()[:2])
        if settings.tls is not None:
            check_tls(settings.tls)
            yield f"certificate: {settings.tls.certificate}"
        yield f"database: {_database(settings)}"
        yield f"pepper: {_pepper(settings)}"
    for name, model in settings.models.items():
        yield f"model: {name} ({_model(model)})"
    yield f"engines here: {', '.join(installed_engines()) or 'none; start workers where there is one'}"


def _database(settings: ServeSettings) -> str:
    file = _file(settings)
    if settings.database is None and not file.exists():
        return f"{file} is made by the first start"
    missing = count_missing_migrations(settings.database_url)
    shown = "as --database says" if settings.database else str(file)
    return f"{shown} ({f'{missing} upgrades come with the next start' if missing else 'up to date'})"


def _pepper(settings: ServeSettings) -> str:
    if settings.database is None and not _file(settings).exists():
        is_there = pepper_path(settings.home).exists()
    else:
        database = open_unchanged(settings.database_url)
        try:
            is_there = check_pepper(settings.home, database)
        finally:
            database.close()
    return "fits the database" if is_there else f"{pepper_path(settings.home)} is made by the first start"


def _file(settings: ServeSettings) -> Path:
    return settings.home / "tunewright.db"


def _model(model: str) -> str:
    if model == BUILTIN_MODEL:
        return "in the package"
    if Path(model).is_dir():
        return f"folder {model}"
    # `owner/name`; anything else can only be a path, which may be right on the machines of the workers.
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        return f"folder {model}, which is not here; a worker needs it at this path"
    return f"{model} from the hub; fetched by the first job"
