"""A database that cannot be reached is an answer to try again after, not a fault of the server."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from openai import InternalServerError

from service_server import RunningServer, chat_rows, serve_here, upload
from tunewright.service.settings import ServeSettings


@contextmanager
def away(server: RunningServer, home: Path) -> Generator[None]:
    """The database's file is not there meanwhile."""
    server.service.database.close()
    for each in home.glob("tunewright.db*"):
        each.rename(each.with_name(f"{each.name}.aside"))
    (home / "tunewright.db").mkdir()
    yield
    (home / "tunewright.db").rmdir()
    for each in home.glob("*.aside"):
        each.rename(each.with_suffix(""))


def test_a_database_that_is_away_is_waited_for(tmp_path: Path) -> None:
    with serve_here(ServeSettings(home=tmp_path)) as server, server.client(max_retries=0) as client:
        assert client.fine_tuning.jobs.list().data == []
        with away(server, tmp_path), pytest.raises(InternalServerError) as caught:
            client.fine_tuning.jobs.list()
        assert (caught.value.status_code, caught.value.code) == (503, "database_unavailable")
        assert caught.value.response.headers["retry-after"] == "1"
        assert client.fine_tuning.jobs.list().data == []


def test_a_stream_ends_without_its_mark_when_the_database_goes(tmp_path: Path) -> None:
    """A client takes it up again; with the mark it would take the job for over."""
    with serve_here(ServeSettings(home=tmp_path)) as server, server.client(max_retries=0) as client:
        file = upload(client, chat_rows(10)).id
        job = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file).id
        place = f"{server.url}/v1/fine_tuning/jobs/{job}/events?stream=true"
        headers = {"authorization": f"Bearer {server.key()}"}
        with httpx2.stream("GET", place, headers=headers, timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("id: ftevent-")
            with away(server, tmp_path):
                rest = list(lines)
        assert "data: [DONE]" not in rest
