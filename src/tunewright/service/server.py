"""Run one server: home folder, database, HTTP, local workers, and a clean end of all of them."""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import logging
import os
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from starlette.types import ASGIApp

from tunewright.errors import ServiceError
from tunewright.service.app import build_app
from tunewright.service.audit import AuditLog
from tunewright.service.children import LocalWorkers, WorkerCommand
from tunewright.service.context import Service
from tunewright.service.db.jobs import live_bases
from tunewright.service.db.keys import count_keys, revoke_named
from tunewright.service.db.opening import open_database
from tunewright.service.db.queue import shorten_leases
from tunewright.service.home import note_database
from tunewright.service.keys import DEFAULT_PROJECT, create_key
from tunewright.service.pepper import take_pepper
from tunewright.service.serving import HttpServer, OnlyWorkers, check_tls
from tunewright.service.settings import ServeSettings
from tunewright.service.signals import stop_event
from tunewright.service.store import LocalBlobs

log = logging.getLogger("tunewright.service")

LOCAL_WORKER = "local worker"
Say = Callable[[str], None]
Ready = Callable[[str, str | None], None]
"""Told the server's address, and the admin key of a first start."""


def run_server(settings: ServeSettings, say: Say, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT. say: prints a line for a person. ready: called once it answers.

    Raises ServiceError (`service.home`, `service.home-in-use`, `service.address`, `service.tls`, and as
    open_service) and OSError.
    """
    if settings.tls is not None:
        check_tls(settings.tls)
    stop = stop_event()
    with hold_home(settings.home), listen(settings) as listener:
        service = open_service(settings)
        note_database(settings)
        first = first_key(service)
        if service.database.is_sqlite:
            with service.database.write() as connection:
                shorten_leases(connection, settings.lease_seconds)
        _tell_missing_bases(service)
        if settings.tls is None and not _is_local(settings.host):
            log.warning("keys and data cross the network unencrypted: give --tls-cert and --tls-key")
        app = build_app(service)
        server = HttpServer(app, listener, tls=settings.tls, proxies=settings.proxies)
        inner = None if settings.tls is None else _workers_door(app)
        ready(server.url, first)
        command = _worker_command(service, (inner or server).url)
        workers = LocalWorkers(command, settings.workers) if settings.workers else None
        _wait(stop, server.thread)
        # Workers first: they give their jobs back through the server.
        if workers:
            say("stopping: running jobs are saved")
            workers.stop()
        service.stopping.set()
        for each in (inner, server):
            if each is not None:
                each.stop()
        service.database.close()


def open_service(settings: ServeSettings) -> Service:
    """Everything that requests need, with the newest database schema.

    Raises ServiceError (`service.database`, and as take_pepper) and OSError.
    """
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = open_database(settings.database_url)
    try:
        pepper = take_pepper(settings.home, database)
    except (ServiceError, OSError):
        database.close()
        raise
    return Service(settings, database, LocalBlobs(settings.home / "blobs"), pepper, AuditLog(settings.home))


def first_key(service: Service) -> str | None:
    """An admin key for a server that has no key yet; None for any other."""
    with service.database.write() as connection:
        if count_keys(connection):
            return None
        key = create_key(connection, service.pepper, name="first", project=DEFAULT_PROJECT, scopes=("admin",))
    return key.secret


def _tell_missing_bases(service: Service) -> None:
    with service.database.read() as connection:
        missing = live_bases(connection) - service.settings.models.keys()
    if missing:
        log.warning("jobs wait for base models that are not offered any more: %s", ", ".join(sorted(missing)))


def _worker_command(service: Service, url: str) -> WorkerCommand:
    home = str(service.settings.home)
    # Of this home only: other servers of the database have local workers too.
    number = hashlib.sha256(home.encode()).hexdigest()[:8]
    name = f"{LOCAL_WORKER} {number} of {socket.gethostname()}"[:128]
    earlier = f"{LOCAL_WORKER} of {socket.gethostname()}:{home}"[:128]
    with service.database.write() as connection:
        for each in (name, earlier):
            revoke_named(connection, each)
        key = create_key(connection, service.pepper, name=name, project=DEFAULT_PROJECT, scopes=("worker",))
    settings = service.settings
    return WorkerCommand(url, key.secret, settings.home / "work", settings.log_format)


def _workers_door(app: ASGIApp) -> HttpServer:
    """A socket for the workers of this machine, who do not come by the name that the certificate is for."""
    return HttpServer(OnlyWorkers(app), socket.create_server(("127.0.0.1", 0)), lifespan=False)


def _wait(stop: threading.Event, server: threading.Thread) -> None:
    while server.is_alive() and not stop.wait(0.2):
        pass


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def hold_home(home: Path) -> Generator[None]:
    """Hold the home folder: two servers in one would take each other's workers for their own.

    Raises ServiceError (`service.home`, `service.home-in-use`).
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(home / "serve.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ServiceError(
            f"cannot write to the home folder: {error.strerror}",
            where=str(home),
            hint="choose another folder with --home",
            code="service.home",
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ServiceError(
                "another server runs in this home folder",
                where=str(home),
                hint="stop it, or choose another folder with --home",
                code="service.home-in-use",
            ) from error
        yield
    finally:
        os.close(handle)


@contextmanager
def listen(settings: ServeSettings) -> Generator[socket.socket]:
    """A socket that listens where the settings say. Raises ServiceError (`service.address`)."""
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise ServiceError(
            f"cannot listen here: {error.strerror or error}",
            where=f"{settings.host}:{settings.port}",
            hint="choose another --port, or stop what uses this one",
            code="service.address",
        ) from error
    with listener:
        yield listener
