"""The HTTP application as a value: settings in, ASGI out. Nothing happens on import."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp

from tunewright import __version__
from tunewright.service.context import Service
from tunewright.service.cross_origin import cross_origin
from tunewright.service.db.blobs import take_unused
from tunewright.service.db.database import DatabaseFault
from tunewright.service.db.files import expire_files
from tunewright.service.envelope import Refusals, RequestIds, install
from tunewright.service.inference.model_server import ModelServer
from tunewright.service.inference.training import make_way
from tunewright.service.methods import AnyJson, Heads
from tunewright.service.observe import Observed
from tunewright.service.openapi import Documented
from tunewright.service.outcomes import release_expired
from tunewright.service.patience import PatientBodies
from tunewright.service.routes import (
    chat,
    completions,
    files,
    health,
    jobs,
    metrics,
    models,
    reference,
    worker,
)
from tunewright.service.schemas.errors import REFUSALS

COLLECT_SECONDS = 300.0
"""Between two looks for unused bytes. Each looks at all that are stored, while on SQLite nobody else can
write."""
log = logging.getLogger("tunewright.service")


def build_app(service: Service) -> ASGIApp:
    """The API of one server."""
    app = Documented(
        title="Tunewright",
        version=__version__,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        responses=REFUSALS,
        max_body_size=service.settings.limits.json_bytes,
    )
    app.state.service = service
    app.state.model_server = ModelServer(service)
    install(app)
    # Routes are tried in turn: those that are asked most come first.
    for prefix in jobs.PREFIXES:
        app.include_router(jobs.router, prefix=prefix, include_in_schema=prefix == jobs.PREFIXES[0])
    app.include_router(files.router)
    app.include_router(models.router)
    app.include_router(chat.router)
    app.include_router(completions.router)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(reference.router)
    app.include_router(worker.router, include_in_schema=False)
    inner: ASGIApp = Refusals(AnyJson(app), service.settings.limits.json_bytes)
    inner = Heads(PatientBodies(inner))
    if service.settings.cors_origins:
        inner = cross_origin(inner, service.settings.cors_origins)
    return RequestIds(Observed(inner, service))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=_keep_house, args=(app, stop), daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join(timeout=10)
    app.state.model_server.process.stop()


def collect_unused(service: Service) -> None:
    """Remove bytes that nothing needs any more."""
    with service.database.write() as connection:
        expire_files(connection)
        # Removed before the commit: a blob that is known but gone is found by `has` and sent again.
        for sha256 in take_unused(connection):
            service.blobs.remove(sha256)


def _keep_house(app: FastAPI, stop: threading.Event) -> None:
    """Take jobs back from lost workers, store when keys were used, remove bytes that nothing needs, and free
    the accelerator for a job."""
    service: Service = app.state.service
    collect_at = time.monotonic()
    while not stop.wait(service.settings.lease_seconds / 4):
        try:
            make_way(service, app.state.model_server.process)
            with service.database.write() as connection:
                release_expired(connection)
                service.traffic.uses.store(connection)
            if time.monotonic() >= collect_at:
                collect_at = time.monotonic() + COLLECT_SECONDS
                collect_unused(service)
        except (DatabaseFault, OSError):
            log.exception("housekeeping failed; it is tried again")
