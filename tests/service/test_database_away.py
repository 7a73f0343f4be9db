"""A database that cannot be reached is an answer to try again after, not a fault of the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai import InternalServerError

from service_server import serve_here
from tunewright.service.settings import ServeSettings


def test_a_database_that_is_away_is_waited_for(tmp_path: Path) -> None:
    with serve_here(ServeSettings(home=tmp_path)) as server, server.client(max_retries=0) as client:
        assert client.fine_tuning.jobs.list().data == []
        file = tmp_path / "tunewright.db"
        server.service.database.close()
        for each in tmp_path.glob("tunewright.db*"):
            each.rename(each.with_suffix(f"{each.suffix}.aside"))
        file.mkdir()
        with pytest.raises(InternalServerError) as caught:
            client.fine_tuning.jobs.list()
        assert (caught.value.status_code, caught.value.code) == (503, "database_unavailable")
        assert caught.value.response.headers["retry-after"] == "1"
        file.rmdir()
        for each in tmp_path.glob("*.aside"):
            each.rename(each.with_suffix(""))
        assert client.fine_tuning.jobs.list().data == []
