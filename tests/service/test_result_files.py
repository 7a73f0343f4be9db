"""The result files of long jobs: what they cost, and that they come with the end of the job or not at all."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from openai import OpenAI

from service_server import RunningServer, chat_rows, upload
from service_worker import HandWorker, worker_by_hand
from tunewright.service.db.events import record_metrics
from tunewright.service.db.jobs import change_job
from tunewright.service.schemas.lease import Finish, Lease
from tunewright.service.store import BlobWriter
from tunewright.service.worker.client import LeaseLost

STEPS = 4000
FIGURES = ("loss", "token_accuracy", "grad_norm", "learning_rate", "loss_tokens", "step_seconds")
PEAK_BYTES = 2 * 2**20
"""Less than all figures of STEPS steps take at once."""


@pytest.fixture
def client(any_server: RunningServer, project: str) -> Iterator[OpenAI]:
    with any_server.client(project=project, max_retries=0) as found:
        yield found


@pytest.fixture
def worker(any_server: RunningServer, tmp_path: Path) -> Iterator[HandWorker]:
    with worker_by_hand(any_server, tmp_path) as found:
        yield found


@pytest.fixture
def lease(any_server: RunningServer, client: OpenAI, worker: HandWorker) -> Lease:
    """A job that is about to end, with the figures of STEPS steps and of the look before them."""
    file = upload(client, chat_rows(10)).id
    lease = worker.begin(client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file).id)
    figures: dict[int, dict[str, float]] = {0: {"valid_loss": 1.0}}
    for step in range(1, STEPS + 1):
        figures[step] = dict.fromkeys(FIGURES, step + 0.5)
    with any_server.service.database.write() as connection:
        record_metrics(connection, lease.job, lease.attempt, figures)
    return lease


def meanwhile(
    monkeypatch: pytest.MonkeyPatch, server: RunningServer, change: Callable[[], object]
) -> list[object]:
    """Let somebody else do something while the bytes of a file are written; returns that it was done."""
    done: list[object] = []
    begin = server.service.blobs.writer

    def writer() -> BlobWriter:
        if not done:
            # Not waited for at its end: where it cannot get on, it does once this call has failed.
            ThreadPoolExecutor(1).submit(change).result(timeout=5)
            done.append(True)
        return begin()

    monkeypatch.setattr(server.service.blobs, "writer", writer)
    return done


def finish(worker: HandWorker, lease: Lease) -> None:
    worker.client.finish(lease, Finish(outcome="succeeded", exit_code=0, step=STEPS))


def test_the_figures_of_a_long_job_are_never_in_memory_together(
    client: OpenAI, worker: HandWorker, lease: Lease
) -> None:
    worker.save(lease, "model", STEPS)
    tracemalloc.start()
    try:
        finish(worker, lease)
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
    finally:
        tracemalloc.stop()
    first, every = client.fine_tuning.jobs.retrieve(lease.job).result_files
    lines = client.files.content(first).text.splitlines()
    assert lines[:2] == [
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy",
        "1,1.5,1.5,,",
    ]
    assert len(lines) == 1 + STEPS
    lines = client.files.content(every).text.splitlines()
    assert lines[0].split(",")[:2] == ["step", "valid_loss"]
    assert sorted(lines[0].split(",")) == sorted(["step", "valid_loss", *FIGURES])
    assert lines[1] == "0,1.0" + "," * len(FIGURES)
    assert len(lines) == 2 + STEPS


def test_others_write_while_result_files_are_written(
    any_server: RunningServer,
    client: OpenAI,
    worker: HandWorker,
    lease: Lease,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker.save(lease, "model", STEPS)
    done = meanwhile(monkeypatch, any_server, lambda: worker.client.renew(lease))
    finish(worker, lease)
    assert done
    assert client.fine_tuning.jobs.retrieve(lease.job).status == "succeeded"


def test_a_lease_that_is_lost_meanwhile_leaves_no_file(
    any_server: RunningServer,
    client: OpenAI,
    worker: HandWorker,
    lease: Lease,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lose() -> None:
        with any_server.service.database.write() as connection:
            change_job(connection, lease.job, lease_expires=0.0)

    worker.save(lease, "model", STEPS)
    done = meanwhile(monkeypatch, any_server, lose)
    with pytest.raises(LeaseLost):
        finish(worker, lease)
    assert done
    assert client.fine_tuning.jobs.retrieve(lease.job).status == "running"
    assert list(client.files.list(purpose="fine-tune-results")) == []
    client.fine_tuning.jobs.cancel(lease.job)


def test_a_job_that_is_cancelled_meanwhile_gets_no_file(
    any_server: RunningServer,
    client: OpenAI,
    worker: HandWorker,
    lease: Lease,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker.save(lease, "model", STEPS)
    done = meanwhile(monkeypatch, any_server, lambda: client.fine_tuning.jobs.cancel(lease.job))
    finish(worker, lease)
    assert done
    assert client.fine_tuning.jobs.retrieve(lease.job).status == "cancelled"
    assert list(client.files.list(purpose="fine-tune-results")) == []
