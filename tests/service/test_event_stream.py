"""Events as they come, through the official client's own reader of server-sent events."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI, Stream
from openai.types.fine_tuning import FineTuningJobEvent
from sqlalchemy import update

from service_server import RunningServer, chat_rows, serve_as_process, server_pid, upload, wait_until
from service_worker import HandWorker, worker_by_hand
from tunewright.service.db.tables import keys
from tunewright.service.keys import create_key


@pytest.fixture
def client(any_server: RunningServer, project: str) -> Iterator[OpenAI]:
    with any_server.client(project=project, max_retries=0) as found:
        yield found


@pytest.fixture
def worker(any_server: RunningServer, tmp_path: Path) -> Iterator[HandWorker]:
    with worker_by_hand(any_server, tmp_path) as found:
        yield found


@pytest.fixture
def job(client: OpenAI) -> str:
    file = upload(client, chat_rows(10)).id
    return client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file).id


def stream(client: OpenAI, job: str, **headers: str) -> Stream[FineTuningJobEvent]:
    return client.get(
        f"/fine_tuning/jobs/{job}/events",
        cast_to=FineTuningJobEvent,
        stream=True,
        stream_cls=Stream[FineTuningJobEvent],
        options={"params": {"stream": "true"}, "headers": headers},
    )


def told(client: OpenAI, job: str) -> list[str]:
    """Ids of the events, oldest first."""
    return [event.id for event in client.fine_tuning.jobs.list_events(job, limit=100)][::-1]


def test_a_stream_replays_then_follows_to_the_end(client: OpenAI, worker: HandWorker, job: str) -> None:
    seen: list[FineTuningJobEvent] = []
    reader = threading.Thread(target=lambda: seen.extend(stream(client, job)), daemon=True)
    reader.start()
    lease = worker.begin(job)
    worker.report(lease, 1, 2, loss=1.0)
    worker.succeed(lease, 2)
    reader.join(timeout=30)
    assert not reader.is_alive()
    assert [event.id for event in seen] == told(client, job)
    assert seen[-1].message == "The job has successfully completed"
    assert [event.id for event in stream(client, job)] == told(client, job)


def test_a_stream_goes_on_behind_the_last_event_id(client: OpenAI, job: str) -> None:
    client.fine_tuning.jobs.cancel(job)
    first, *rest = told(client, job)
    assert [event.id for event in stream(client, job, **{"last-event-id": first})] == rest


def test_a_stream_ends_with_its_server(any_server: RunningServer, client: OpenAI, job: str) -> None:
    with stream(client, job) as events:
        assert next(events).message.startswith("Created")
        any_server.service.stopping.set()
        try:
            wait_until(lambda: next(events, None) is None, "the stream ends")
        finally:
            any_server.service.stopping.clear()


@pytest.mark.parametrize("query", [{"stream": "true", "after": "x"}, {"stream": "maybe"}])
def test_what_no_stream_can_begin_with(query: dict[str, str], client: OpenAI, job: str) -> None:
    with pytest.raises(BadRequestError):
        client.get(f"/fine_tuning/jobs/{job}/events", cast_to=dict, options={"params": query})


def test_a_stream_of_nothing_is_not_found(client: OpenAI) -> None:
    with pytest.raises(NotFoundError):
        stream(client, "ftjob-none")


def test_one_who_hangs_up_is_forgotten(any_server: RunningServer, client: OpenAI, job: str) -> None:
    """A stream that nobody reads does not keep a thread: many of them leave the server as quick as before."""
    for _ in range(50):
        opened: Any = stream(client, job)
        next(opened)
        opened.close()
    assert client.fine_tuning.jobs.retrieve(job).id == job


def test_a_server_that_ends_does_not_wait_for_its_streams(tmp_path: Path) -> None:
    with serve_as_process(tmp_path, "--workers", "0") as server, server.client(max_retries=0) as client:
        file = upload(client, chat_rows(10)).id
        job = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file).id
        seen: list[FineTuningJobEvent] = []
        reader = threading.Thread(target=lambda: seen.extend(stream(client, job)), daemon=True)
        reader.start()
        wait_until(lambda: seen, "the first event")
        asked = time.monotonic()
        os.kill(server_pid(server), signal.SIGTERM)
        reader.join(timeout=60)
        # Far below the time after which the test would kill it, far above what it takes.
        assert time.monotonic() - asked < 40
    assert len(seen) == 2


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
def test_a_stream_ends_with_its_key(column: str, any_server: RunningServer, project: str, job: str) -> None:
    with any_server.service.database.write() as connection:
        made = create_key(
            connection, any_server.service.pepper, name="watcher", project=project, scopes=("jobs",)
        )
    with any_server.client(key=made.secret, max_retries=0) as watcher, stream(watcher, job) as events:
        assert [next(events).message.split()[0] for _ in range(2)] == ["Created", "Validating"]
        with any_server.service.database.write() as connection:
            connection.execute(update(keys).where(keys.c.id == made.record.id).values({column: 1.0}))
        rest: list[FineTuningJobEvent] = []
        reader = threading.Thread(target=lambda: rest.extend(events), daemon=True)
        reader.start()
        reader.join(timeout=10)
        assert not reader.is_alive()
        assert rest == []
