"""One attempt of a real worker, and what becomes of the job when something about it goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from service_proxy import fault_proxy
from service_server import RunningServer, chat_rows, upload
from service_worker import HandWorker, worker_by_hand
from tunewright.service.db.jobs import find_job
from tunewright.service.schemas.lease import Finish, Lease
from tunewright.service.worker import checking
from tunewright.service.worker.attempt import work_on
from tunewright.service.worker.client import ServerClient


@pytest.fixture
def worker(server: RunningServer, tmp_path: Path) -> Iterator[HandWorker]:
    with worker_by_hand(server, tmp_path) as found:
        yield found


@pytest.fixture
def lease(client: OpenAI, worker: HandWorker) -> Lease:
    """Of a new job whose files are to be read."""
    job = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=upload(client, chat_rows(12)).id)
    return worker.claim_job(job.id)


def never() -> bool:
    return False


def told(client: OpenAI, job: str) -> list[str]:
    """Messages of the job, oldest first."""
    return [event.message for event in reversed(client.fine_tuning.jobs.list_events(job, limit=100).data)]


def test_files_are_read_and_the_job_waits(
    client: OpenAI, worker: HandWorker, lease: Lease, tmp_path: Path
) -> None:
    work_on(worker.client, lease, tmp_path / "work", never)
    assert client.fine_tuning.jobs.retrieve(lease.job).status == "queued"
    # The machine that read the files keeps them for the training.
    assert (tmp_path / "work" / lease.job / "training.jsonl").stat().st_size == lease.training.bytes


def test_a_check_that_takes_too_long_ends_the_job_at_once(
    client: OpenAI, worker: HandWorker, lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "FIRST_SECONDS", 0.2)
    work_on(worker.client, lease, tmp_path / "work", never)
    job = client.fine_tuning.jobs.retrieve(lease.job)
    assert job.error
    assert (job.status, job.error.code, job.error.param) == (
        "failed",
        "invalid_training_file",
        "training_file",
    )
    assert job.error.message == "The file takes longer than 0 s to check"


def test_a_folder_that_cannot_be_written_is_told_and_tried_again(
    client: OpenAI, worker: HandWorker, lease: Lease, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / lease.job).write_bytes(b"in the way")
    work_on(worker.client, lease, tmp_path / "work", never)
    assert client.fine_tuning.jobs.retrieve(lease.job).status == "validating_files"
    (last,) = [text for text in told(client, lease.job) if "could not read or write" in text]
    assert last.startswith("The worker could not read or write its files: File exists")
    assert str(tmp_path) not in last


def test_bytes_that_were_damaged_on_their_way_are_told_and_tried_again(
    client: OpenAI, server: RunningServer, worker: HandWorker, lease: Lease, tmp_path: Path
) -> None:
    blobs: Any = server.service.blobs
    blobs.path(lease.training.sha256).write_bytes(b"other bytes")
    work_on(worker.client, lease, tmp_path / "work", never)
    assert client.fine_tuning.jobs.retrieve(lease.job).status == "validating_files"
    assert any("other bytes came than the server named" in text for text in told(client, lease.job))


def test_a_worker_that_is_asked_to_end_gives_the_job_back(
    client: OpenAI, worker: HandWorker, lease: Lease, tmp_path: Path
) -> None:
    work_on(worker.client, lease, tmp_path / "work", lambda: True)
    assert client.fine_tuning.jobs.retrieve(lease.job).status == "validating_files"
    other = worker.claim_job(lease.job)
    assert other.attempt > lease.attempt


def test_a_pause_before_the_trainer_listens_is_no_failure(
    client: OpenAI, server: RunningServer, worker: HandWorker, lease: Lease, project: str, tmp_path: Path
) -> None:
    worker.client.finish(lease, Finish(outcome="validated", exit_code=0, checked={"train_rows": 12}))
    lease = worker.claim_job(lease.job)
    client.fine_tuning.jobs.pause(lease.job)
    # Asked at once, while the trainer is still being loaded.
    work_on(worker.client, lease, tmp_path / "work", lambda: True)
    assert client.fine_tuning.jobs.retrieve(lease.job).status == "paused"
    assert told(client, lease.job)[-1] == "Fine-tuning job paused"
    with server.service.database.read() as connection:
        job = find_job(connection, project, lease.job)
    assert job
    assert job.failures == 0


def test_a_job_that_is_cancelled_before_its_files_came_is_left(
    client: OpenAI, worker: HandWorker, lease: Lease, tmp_path: Path
) -> None:
    client.fine_tuning.jobs.cancel(lease.job)
    client.files.delete(lease.training.id)
    work_on(worker.client, lease, tmp_path / "work", never)
    assert client.fine_tuning.jobs.retrieve(lease.job).status == "cancelled"
    # Jobs of other tests may be due again.
    with pytest.raises(AssertionError, match="not to be had"):
        worker.claim_job(lease.job)


def test_a_lost_lease_ends_the_attempt_without_a_word(
    client: OpenAI, worker: HandWorker, lease: Lease, tmp_path: Path
) -> None:
    stale = lease.model_copy(update={"attempt": lease.attempt + 1})
    work_on(worker.client, stale, tmp_path / "work", never)
    assert not [text for text in told(client, lease.job) if "validated" in text]


@pytest.mark.parametrize("phase", ["fetching", "telling"])
def test_a_server_that_is_away_is_waited_for(
    phase: str, client: OpenAI, server: RunningServer, lease: Lease, tmp_path: Path
) -> None:
    with fault_proxy(server.url) as proxy:
        worker = ServerClient(proxy.url, server.key("worker"))

        def cut_for_a_second() -> None:
            proxy.cut()
            threading.Timer(1.0, proxy.mend).start()

        stopping: Callable[[], bool] = never
        if phase == "fetching":
            cut_for_a_second()
        else:
            is_cut = threading.Event()

            def stopping() -> bool:
                """Asked while the files are read; the end is to be told to a server that is away."""
                if not is_cut.is_set():
                    is_cut.set()
                    cut_for_a_second()
                return False

        work_on(worker, lease, tmp_path / "work", stopping)
        worker.close()
    assert client.fine_tuning.jobs.retrieve(lease.job).status == "queued"
