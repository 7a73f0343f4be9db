"""What a live job needs stays, whatever its owner deletes; what nobody else can need goes with the job."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from sqlalchemy import update

from service_server import RunningServer, chat_rows, upload
from service_worker import HandWorker, worker_by_hand
from tunewright.service.db.artifacts import newest_state
from tunewright.service.db.blobs import GRACE_SECONDS, take_unused
from tunewright.service.db.files import delete_file
from tunewright.service.db.tables import blobs
from tunewright.service.db.usage import count_stored
from tunewright.service.schemas.lease import Finish, Lease


@pytest.fixture
def server(any_server: RunningServer) -> RunningServer:
    return any_server


@pytest.fixture
def client(server: RunningServer, project: str) -> Iterator[OpenAI]:
    with server.client(project=project, max_retries=0) as found:
        yield found


@pytest.fixture
def worker(server: RunningServer, tmp_path: Path) -> Iterator[HandWorker]:
    with worker_by_hand(server, tmp_path) as found:
        yield found


@pytest.fixture
def new_job(client: OpenAI) -> Callable[..., Any]:
    def make(model: str = "builtin:tiny") -> Any:
        # Bytes that no other file of these tests has.
        rows = [*chat_rows(11), {"text": secrets.token_hex(8)}]
        return client.fine_tuning.jobs.create(model=model, training_file=upload(client, rows).id)

    return make


def collect_a_day_later(server: RunningServer) -> None:
    """What housekeeping does once nobody touched anything for a day."""
    with server.service.database.write() as connection:
        connection.execute(update(blobs).values(touched_at=time.time() - GRACE_SECONDS - 60))
        for sha256 in take_unused(connection):
            server.service.blobs.remove(sha256)


def fetched(worker: HandWorker, lease: Lease, folder: Path) -> bytes:
    """The bytes of what the job starts from."""
    assert lease.start_from is not None
    [file] = lease.start_from
    worker.client.fetch_blob(lease, file, folder / "fetched")
    return (folder / "fetched").read_bytes()


def test_a_model_that_is_deleted_is_still_what_a_waiting_job_starts_from(
    server: RunningServer, client: OpenAI, worker: HandWorker, new_job: Callable[..., Any], tmp_path: Path
) -> None:
    first = new_job()
    worker.succeed(worker.begin(first.id))
    model = client.fine_tuning.jobs.retrieve(first.id).fine_tuned_model
    assert model
    follower = new_job(model)
    client.models.delete(model)
    collect_a_day_later(server)
    assert fetched(worker, worker.begin(follower.id), tmp_path) == b"model 4"


def test_a_checkpoint_that_newer_ones_replaced_is_still_what_a_waiting_job_starts_from(
    server: RunningServer, client: OpenAI, worker: HandWorker, new_job: Callable[..., Any], tmp_path: Path
) -> None:
    first = new_job()
    lease = worker.begin(first.id)
    worker.save(lease, "checkpoint", 1)
    [checkpoint] = client.fine_tuning.jobs.checkpoints.list(first.id)
    follower = new_job(checkpoint.fine_tuned_model_checkpoint)
    for step in (2, 3, 4):
        worker.save(lease, "checkpoint", step)
    worker.succeed(lease)
    collect_a_day_later(server)
    assert fetched(worker, worker.begin(follower.id), tmp_path) == b"checkpoint 1"


def test_the_bytes_of_a_live_jobs_file_stay_even_when_the_file_goes(
    server: RunningServer, worker: HandWorker, new_job: Callable[..., Any], tmp_path: Path
) -> None:
    """On PostgreSQL a file can be deleted in the very moment in which a job is made of it."""
    job = new_job()
    with server.service.database.write() as connection:
        delete_file(connection, job.training_file)
    collect_a_day_later(server)
    lease = worker.begin(job.id)
    assert server.service.blobs.has(lease.training.sha256)


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled", "cancelled while paused"])
def test_the_state_of_a_job_goes_with_its_end(
    end: str,
    server: RunningServer,
    client: OpenAI,
    worker: HandWorker,
    new_job: Callable[..., Any],
    project: str,
) -> None:
    """Nobody can resume it, and no call could free what it takes of the project's quota."""
    job = new_job().id
    lease = worker.begin(job)
    before = stored(server, project)
    worker.save(lease, "state", 1, {"state.bin": b"state of " + job.encode()})
    assert stored(server, project) > before
    if end == "succeeded":
        worker.client.finish(lease, Finish(outcome="succeeded", exit_code=0, step=1))
    elif end == "failed":
        worker.client.finish(lease, Finish(outcome="failed", exit_code=2, code="x", message=""))
    elif end == "cancelled":
        client.fine_tuning.jobs.cancel(job)
        # What was on its way already.
        worker.save(lease, "state", 2, {"state.bin": b"state 2 of " + job.encode()})
        worker.client.finish(lease, Finish(outcome="stopped", exit_code=137))
    else:
        client.fine_tuning.jobs.pause(job)
        worker.client.finish(lease, Finish(outcome="stopped", exit_code=0))
        client.fine_tuning.jobs.cancel(job)
    with server.service.database.read() as connection:
        assert newest_state(connection, job) is None
    results = sum(file.bytes for file in client.files.list(purpose="fine-tune-results"))
    assert stored(server, project) == before + results


def stored(server: RunningServer, project: str) -> int:
    with server.service.database.read() as connection:
        return count_stored(connection, project)[1]
