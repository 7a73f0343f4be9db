"""`tunewright db`, `serve --check` and `mlx-serve` as an operator runs them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from processes import child_environment, command_line
from service_server import RunningServer, chat_rows, serve_here, upload
from service_worker import worker_by_hand
from tunewright.errors import ServiceError
from tunewright.service.db.copying import copy_database
from tunewright.service.db.database import Database, sqlite_url
from tunewright.service.db.migrate import upgrade
from tunewright.service.settings import ServeSettings

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tunewright(tmp_path: Path) -> Run:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command_line(arguments),
            cwd=tmp_path,
            env=child_environment(tmp_path, {}),
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a stopped server that has a job with everything that jobs have."""
    folder = tmp_path_factory.mktemp("home")
    with serve_here(ServeSettings(home=folder)) as server, server.client(max_retries=0) as client:
        file = upload(client, chat_rows(10)).id
        job = client.fine_tuning.jobs.create(
            model="builtin:tiny", training_file=file, metadata={"a": "\u00e9"}, suffix="moved"
        ).id
        with worker_by_hand(server, tmp_path_factory.mktemp("worker")) as worker:
            lease = worker.begin(job)
            worker.report(lease, 1, 1, loss=1.5, loss_tokens=3)
            worker.save(lease, "checkpoint", 1)
            worker.succeed(lease, 1)
    return folder


def as_shown(server: RunningServer) -> list[object]:
    with server.client() as client:
        return [
            *client.files.list(),
            *client.fine_tuning.jobs.list(),
            *client.models.list(),
            *(
                found
                for job in client.fine_tuning.jobs.list()
                for found in (
                    *client.fine_tuning.jobs.list_events(job.id),
                    *client.fine_tuning.jobs.checkpoints.list(job.id),
                )
            ),
        ]


def test_a_server_moves_to_postgres(home: Path, postgres: Callable[[], str], tunewright: Run) -> None:
    with serve_here(ServeSettings(home=home)) as server:
        key = server.key()
        before = as_shown(server)
    url = postgres()
    done = tunewright("db", "copy", "--home", home, "--to", url)
    assert done.returncode == 0, done.stderr
    counts = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()[:-1]}
    assert (counts["jobs"], counts["metrics"], counts["files"]) == ("1", "1", "3")
    with serve_here(ServeSettings(home=home, database=url)) as server, server.client(key=key) as client:
        assert client.models.list().data
        assert as_shown(server) == before
    again = tunewright("db", "copy", "--home", home, "--to", url)
    assert again.returncode == 1
    assert "error[service.database-not-empty]" in again.stderr


def test_a_copy_that_lost_rows_is_not_kept(home: Path, tmp_path: Path) -> None:
    source, target = Database(sqlite_url(home / "tunewright.db")), Database(sqlite_url(tmp_path / "to.db"))
    upgrade(target)
    with target.write() as connection:
        connection.execute(
            text("create trigger lossy before insert on metrics begin select raise(ignore); end")
        )
    with closing(source), closing(target):
        with pytest.raises(ServiceError) as caught:
            copy_database(source, target)
        assert (caught.value.code, "metrics" in caught.value.what) == ("service.copy", True)
        with target.read() as connection:
            assert not connection.execute(text("select * from jobs")).all()


def test_a_running_server_is_not_copied(home: Path, postgres: Callable[[], str], tunewright: Run) -> None:
    from tunewright.service.server import hold_home

    with hold_home(home):
        done = tunewright("db", "copy", "--home", home, "--to", postgres())
    assert "error[service.home-in-use]" in done.stderr


def test_nothing_is_copied_from_nowhere(tmp_path: Path, tunewright: Run) -> None:
    done = tunewright("db", "copy", "--home", tmp_path / "none", "--to", "postgresql://h/n")
    assert (done.returncode, "error[service.no-database]" in done.stderr) == (1, True)
    assert not (tmp_path / "none").exists()


def test_upgrade_says_what_it_did(tmp_path: Path, tunewright: Run) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    first, second = (tunewright("db", "upgrade", "--database", url) for _ in range(2))
    assert first.stdout.startswith("upgraded: "), first.stderr
    assert second.stdout == "up to date: nothing to do\n"


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[RunningServer]:
    with serve_here(ServeSettings(home=tmp_path / "taken")) as running:
        yield running


def test_check_before_the_first_start_and_after(tmp_path: Path, tunewright: Run) -> None:
    home = tmp_path / "fresh"
    arguments = (
        "serve",
        "--check",
        "--port",
        "0",
        "--home",
        home,
        "--model",
        "qwen=Qwen/Qwen3-0.6B",
        "--model",
        "typo=/no/such",
    )
    done = tunewright(*arguments)
    assert done.returncode == 0, done.stderr
    assert "tunewright.db is made by the first start" in done.stdout
    assert "model: qwen (Qwen/Qwen3-0.6B from the hub" in done.stdout
    assert "model: typo (folder /no/such, which is not here" in done.stdout
    assert done.stdout.endswith("the server can start\n")
    assert not (home / "tunewright.db").exists()
    with serve_here(ServeSettings(home=home)):
        pass
    assert "(up to date)" in tunewright(*arguments).stdout


def test_check_names_what_is_in_the_way(tmp_path: Path, taken: RunningServer, tunewright: Run) -> None:
    port = taken.url.rpartition(":")[2]
    done = tunewright("serve", "--check", "--home", tmp_path / "other", "--port", port)
    assert (done.returncode, "error[service.address]" in done.stderr) == (1, True)
    wrong = tunewright("serve", "--check", "--port", "0", "--home", tmp_path, "--database", "mysql://h/n")
    assert (wrong.returncode, "error[service.database]" in wrong.stderr) == (1, True)
    nowhere = tunewright("serve", "--check", "--data-dir", tmp_path / "none")
    assert "--data-dir" in nowhere.stderr
