"""A full disk: a refusal with a name, nothing half written, and work again once there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import InternalServerError, OpenAI
from sqlalchemy import text

from service_server import RunningServer, chat_rows, serve_as_process, serve_here, upload, wait_until
from tunewright.service.settings import ServeSettings

MEBIBYTE = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def health(server: RunningServer) -> tuple[int, Any]:
    answer = httpx2.get(f"{server.url}/health")
    return answer.status_code, answer.json()["problems"]


def check_refused(call: Callable[[], object], client: OpenAI) -> None:
    """The call fails once, with its name: the client does not try again."""
    with pytest.raises(InternalServerError) as caught:
        call()
    assert (caught.value.status_code, caught.value.code) == (507, "disk_full")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_an_upload_without_room(small_disk: Path) -> None:
    flags = ("--workers", "0", "--inference", "off")
    with serve_as_process(small_disk, *flags) as server, server.client() as client:
        assert health(server) == (200, [])
        kept = client.files.create(file=b"x" * MEBIBYTE, purpose="batch").id
        check_refused(lambda: client.files.create(file=b"y" * 20 * MEBIBYTE, purpose="batch"), client)
        assert health(server) == (503, ["disk_full"])
        assert list((small_disk / "home" / "blobs" / "tmp").iterdir()) == []
        assert [file.id for file in client.files.list()] == [kept]
        assert len(list((small_disk / "home" / "blobs" / "objects").glob("*/*"))) == 1
        assert client.files.content(kept).read() == b"x" * MEBIBYTE
        log = (small_disk / "serve.log").read_text(encoding="utf-8")
        assert "Traceback" not in log
        assert "the disk of the home folder is full" in log
        subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
        assert health(server) == (200, [])
        client.files.create(file=b"y" * 20 * MEBIBYTE, purpose="batch")


def test_a_database_without_room(small_disk: Path) -> None:
    """SQLite on a disk of which something else took the rest."""
    flags = ("--workers", "0", "--inference", "off")
    with serve_as_process(small_disk, *flags) as server, server.client() as client:
        file = upload(client, chat_rows(10)).id

        def create() -> object:
            return client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file)

        with (small_disk / "rest").open("wb", buffering=0) as rest:
            while _takes(rest, b"z" * 4096):
                pass
        # The log of writes ahead may have a few pages left.
        made = 0

        def create_many() -> None:
            nonlocal made
            while made < 1000:
                create()
                made += 1

        with pytest.raises(InternalServerError) as caught:
            create_many()
        assert caught.value.code == "disk_full"
        assert health(server)[0] == 503
        assert len(list(client.fine_tuning.jobs.list(limit=100))) == made
        (small_disk / "rest").unlink()
        wait_until(lambda: health(server) == (200, []), "there is room again")
        create()
        assert len(list(client.fine_tuning.jobs.list(limit=100))) == made + 1


def _takes(file: Any, data: bytes) -> bool:
    try:
        return file.write(data) == len(data)
    except OSError:
        return False


FULL = """
create function full_disk() returns trigger language plpgsql as
$$ begin raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$
"""


def test_postgresql_without_room(postgres: Callable[[], str], tmp_path: Path) -> None:
    with (
        serve_here(ServeSettings(home=tmp_path, database=postgres())) as server,
        server.client() as client,
    ):
        database = server.service.database
        with database.write() as connection:
            connection.execute(text(FULL))
            for table in ("blobs", "replays", "jobs"):
                connection.execute(
                    text(f"create trigger no_room before insert on {table} execute function full_disk()")
                )
        check_refused(lambda: client.files.create(file=b"x", purpose="batch"), client)
        assert health(server) == (503, ["database_full"])
        # Bytes that nobody can ever find would fill the other disk.
        assert list((tmp_path / "blobs" / "objects").glob("*/*")) == []
        with database.write() as connection:
            for table in ("blobs", "replays", "jobs"):
                connection.execute(text(f"drop trigger no_room on {table}"))
        wait_until(lambda: health(server) == (200, []), "there is room again")
        client.files.create(file=b"x", purpose="batch")
