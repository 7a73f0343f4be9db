"""Jobs on a base model that the operator took out of the settings wait, and hold up no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from service_server import RunningServer, chat_rows, serve_as_process, serve_here, upload
from service_worker import worker_by_hand
from tunewright.service.settings import BUILTIN_MODEL, ServeSettings

BOTH = {BUILTIN_MODEL: BUILTIN_MODEL, "gone": BUILTIN_MODEL}


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> ServeSettings:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres")()
    return ServeSettings(home=tmp_path / "home", database=url, models=BOTH)


def make_jobs(server: RunningServer, *models: str) -> list[str]:
    with server.client() as client:
        file = upload(client, chat_rows(11)).id
        return [client.fine_tuning.jobs.create(model=name, training_file=file).id for name in models]


def test_a_job_whose_base_is_gone_waits_and_the_next_one_is_claimed(
    settings: ServeSettings, tmp_path: Path
) -> None:
    with serve_here(settings) as server:
        waiting, other = make_jobs(server, "gone", BUILTIN_MODEL)
    fewer = replace(settings, models={BUILTIN_MODEL: BUILTIN_MODEL})
    with serve_here(fewer) as server, worker_by_hand(server, tmp_path) as worker:
        lease = worker.claim()
        assert lease is not None
        assert lease.job == other
        assert worker.claim() is None
    with serve_here(settings) as server, worker_by_hand(server, tmp_path) as worker:
        lease = worker.claim()
        assert lease is not None
        assert lease.job == waiting


def test_a_worker_can_still_read_the_files_of_a_job_that_it_holds(
    settings: ServeSettings, tmp_path: Path
) -> None:
    with serve_here(settings) as server:
        make_jobs(server, "gone")
        with worker_by_hand(server, tmp_path) as worker:
            lease = worker.claim()
    assert lease is not None
    with serve_here(replace(settings, models={BUILTIN_MODEL: BUILTIN_MODEL})) as server:
        path = f"/worker/jobs/{lease.job}/blobs/{lease.training.sha256}"
        with worker_by_hand(server, tmp_path) as worker:
            answer = worker.client._call("GET", path, attempt=lease.attempt)
    assert len(answer.content) == lease.training.bytes


def test_the_operator_is_told_at_the_start(tmp_path: Path) -> None:
    with serve_here(ServeSettings(home=tmp_path / "home", models=BOTH)) as server:
        make_jobs(server, "gone")
    with serve_as_process(tmp_path, "--workers", "0"):
        log = (tmp_path / "serve.log").read_text(encoding="utf-8")
    assert "jobs wait for base models that are not offered any more: gone" in log
