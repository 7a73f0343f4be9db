"""Bytes that nobody needs go; those that somebody needs, or may be about to need, stay."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import BadRequestError, OpenAI
from sqlalchemy import update

from service_server import RunningServer, chat_rows, upload
from service_worker import worker_by_hand
from tunewright.service.db.blobs import GRACE_SECONDS, take_unused
from tunewright.service.db.files import expire_files, find_stored_file
from tunewright.service.db.tables import blobs, files
from tunewright.service.faults import ApiError
from tunewright.service.schemas.lease import Finish
from tunewright.service.store import UNFINISHED_SECONDS, LocalBlobs
from tunewright.service.stored import record_blob


@pytest.fixture
def server(any_server: RunningServer) -> RunningServer:
    return any_server


@pytest.fixture
def client(server: RunningServer, project: str) -> Iterator[OpenAI]:
    with server.client(project=project, max_retries=0) as found:
        yield found


def pass_time(server: RunningServer) -> None:
    """Let everything that is stored be a day old, and what expires have expired."""
    with server.service.database.write() as connection:
        connection.execute(update(blobs).values(touched_at=time.time() - GRACE_SECONDS - 60))
        connection.execute(
            update(files).where(files.c.expires_at.is_not(None)).values(expires_at=time.time() - 60)
        )


def collect(server: RunningServer) -> set[str]:
    """What housekeeping does; returns the hashes of the bytes that went."""
    with server.service.database.write() as connection:
        expire_files(connection)
        gone = take_unused(connection)
        for sha256 in gone:
            server.service.blobs.remove(sha256)
    return set(gone)


def stored(server: RunningServer) -> int:
    return sum(path.is_file() for path in (server.service.settings.home / "blobs" / "objects").rglob("*"))


def test_a_deleted_file_goes_after_a_day(server: RunningServer, client: OpenAI) -> None:
    file = client.files.create(file=b"one of a kind 1", purpose="batch")
    client.files.delete(file.id)
    assert collect(server) == set()
    pass_time(server)
    assert len(collect(server)) == 1


def test_bytes_that_two_files_have_stay_for_the_other(server: RunningServer, client: OpenAI) -> None:
    first, second = (client.files.create(file=b"one of a kind 2", purpose="batch") for _ in range(2))
    client.files.delete(first.id)
    pass_time(server)
    assert collect(server) == set()
    assert client.files.content(second.id).read() == b"one of a kind 2"


def test_an_expired_file_goes_unless_a_live_job_reads_it(server: RunningServer, client: OpenAI) -> None:
    data = b"".join(b'{"text": "row %d"}\n' % number for number in range(12))
    life = {"anchor": "created_at", "seconds": 3600}
    file = client.files.create(file=data, purpose="fine-tune", expires_after=life)  # type: ignore[arg-type]
    job = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file.id)
    pass_time(server)
    assert collect(server) == set()
    client.fine_tuning.jobs.cancel(job.id)
    assert len(collect(server)) == 1
    assert not client.files.list().data


def test_bytes_that_a_worker_need_not_send_again_stay_for_it(
    server: RunningServer, client: OpenAI, tmp_path: Path
) -> None:
    file = client.files.create(file=b"one of a kind 5", purpose="batch")
    with server.service.database.read() as connection:
        sha256 = find_stored_file(connection, file.id).sha256
    client.files.delete(file.id)
    pass_time(server)
    with worker_by_hand(server, tmp_path) as worker:
        assert worker.client.missing_blobs([sha256]) == set()
    assert collect(server) == set()
    pass_time(server)
    assert collect(server) == {sha256}


def test_models_and_checkpoints_stay_until_they_are_deleted(
    server: RunningServer, client: OpenAI, tmp_path: Path
) -> None:
    file = upload(client, chat_rows(11)).id
    job = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file).id
    with worker_by_hand(server, tmp_path) as worker:
        lease = worker.begin(job)
        for step in (1, 2):
            worker.save(lease, "state", step, {"state.bin": b"state %d of %s" % (step, job.encode())})
        worker.save(lease, "model", 2, {"model.bin": b"model of " + job.encode()})
        pass_time(server)
        # The older state is what nobody needs any more.
        assert len(collect(server)) == 1
        worker.succeed(lease)
    pass_time(server)
    collect(server)
    model = client.fine_tuning.jobs.retrieve(job).fine_tuned_model
    assert model
    client.models.delete(model)
    pass_time(server)
    assert len(collect(server)) == 1


def test_a_deleted_model_stays_for_a_live_job_that_starts_from_it(
    server: RunningServer, client: OpenAI, tmp_path: Path
) -> None:
    file = upload(client, chat_rows(11)).id
    first = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file).id
    with worker_by_hand(server, tmp_path) as worker:
        data = b"start of " + first.encode()
        lease = worker.begin(first)
        worker.save(lease, "model", 2, {"model.bin": data})
        worker.client.finish(lease, Finish(outcome="succeeded", exit_code=0, step=2))
        model = client.fine_tuning.jobs.retrieve(first).fine_tuned_model
        assert model
        second = client.fine_tuning.jobs.create(model=model, training_file=file).id
        client.models.delete(model)
        pass_time(server)
        assert collect(server) == set()
        start = worker.begin(second).start_from
    assert start is not None
    assert [found.sha256 for found in start] == [hashlib.sha256(data).hexdigest()]
    client.fine_tuning.jobs.cancel(second)
    assert collect(server) == {start[0].sha256}


def test_a_refused_upload_is_not_kept_for_ever(server: RunningServer, client: OpenAI) -> None:
    before = stored(server)
    with pytest.raises(BadRequestError):
        client.files.create(file=b"one of a kind 3", purpose="fun")  # type: ignore[arg-type]
    pass_time(server)
    collect(server)
    assert stored(server) <= before


def test_bytes_that_went_while_they_were_sent_are_asked_for_again(server: RunningServer) -> None:
    """Stored again just when housekeeping took the old ones: no entry without bytes."""
    writer = server.service.blobs.writer()
    writer.write(b"one of a kind 4")
    sha256 = writer.commit()
    record_blob(server.service, sha256, 15)
    pass_time(server)
    assert sha256 in collect(server)
    with pytest.raises(ApiError) as caught:
        record_blob(server.service, sha256, 15)
    assert caught.value.status == 503
    with server.service.database.read() as connection:
        assert connection.execute(blobs.select().where(blobs.c.sha256 == sha256)).first() is None


def test_what_a_killed_server_had_begun_goes_a_day_later(tmp_path: Path) -> None:
    old, new = (LocalBlobs(tmp_path).writer() for _ in range(2))
    for writer in (old, new):
        writer.write(b"half of it")
    first, *_ = (tmp_path / "tmp").iterdir()
    os.utime(first, (time.time() - 2 * UNFINISHED_SECONDS,) * 2)
    LocalBlobs(tmp_path)
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    for writer in (old, new):
        writer.abort()
