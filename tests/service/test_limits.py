"""How much a key may ask and a project may have, as the official client sees it."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI, RateLimitError

from service_server import RunningServer, chat_rows, serve_here, upload, wait_until
from tunewright.service.db.blobs import add_blob
from tunewright.service.db.database import Connection, Database
from tunewright.service.db.files import add_file
from tunewright.service.db.jobs import add_job
from tunewright.service.db.queue import claim_job
from tunewright.service.faults import ApiError
from tunewright.service.keys import create_key
from tunewright.service.quotas import check_file_quota, check_job_quota
from tunewright.service.rates import WINDOW_SECONDS, RateLimiter
from tunewright.service.records import FileRecord, JobRecord
from tunewright.service.settings import Limits, ServeSettings

NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def limited(home: Path, **limits: int) -> Iterator[RunningServer]:
    with serve_here(ServeSettings(home=home, limits=dataclasses.replace(Limits(), **limits))) as running:
        yield running


class Clock:
    """Time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(
    st.lists(st.floats(0.0, 20.0), max_size=120),
    st.integers(1, 12),
)
def test_no_minute_has_more_than_the_limit_and_the_wait_is_right(pauses: list[float], limit: int) -> None:
    clock = Clock()
    rates = RateLimiter(clock)
    allowed: list[float] = []
    for pause in pauses:
        clock.now += pause
        found = rates.take("somebody", limit)
        if found.wait_seconds == 0:
            allowed.append(clock.now)
            assert found.remaining >= 0
        else:
            assert found.remaining == 0
            assert 0 < found.wait_seconds <= WINDOW_SECONDS + 1
            clock.now += found.wait_seconds
            assert rates.take("somebody", limit).wait_seconds == 0
            allowed.append(clock.now)
    for moment in allowed:
        assert sum(1 for other in allowed if moment - WINDOW_SECONDS < other <= moment) <= limit


def test_names_do_not_share_a_limit_and_are_forgotten_when_quiet() -> None:
    clock = Clock()
    rates = RateLimiter(clock)
    assert [rates.take("a", 2).remaining for _ in range(2)] == [1, 0]
    assert rates.take("a", 2).wait_seconds > 0
    assert rates.take("b", 2).remaining == 1
    clock.now += 2 * WINDOW_SECONDS + 2
    assert rates.take("c", 2) == rates.take("d", 2)
    assert set(rates._asked) == {"c", "d"}


def test_every_answer_tells_the_limit(server: RunningServer, client: OpenAI) -> None:
    first = client.files.with_raw_response.list().headers
    second = client.files.with_raw_response.list().headers
    limit = server.service.settings.limits.requests_per_minute
    assert first["x-ratelimit-limit-requests"] == str(limit)
    assert int(first["x-ratelimit-remaining-requests"]) == limit - 1
    assert int(second["x-ratelimit-remaining-requests"]) == limit - 2
    assert first["x-ratelimit-reset-requests"].endswith("s")


def test_a_key_above_its_limit_is_told_when_to_come_back(tmp_path: Path) -> None:
    with limited(tmp_path, requests_per_minute=3) as server:
        with server.client(max_retries=0) as client, server.client(max_retries=0) as other:
            for _ in range(3):
                client.files.list()
            with pytest.raises(RateLimitError) as caught:
                client.files.list()
            other.files.list()
        assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
        headers = caught.value.response.headers
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert 1 <= int(headers["retry-after"]) <= 62
        assert int(headers["retry-after-ms"]) <= 1000 * int(headers["retry-after"])
        assert "x-should-retry" not in headers
        # Whoever only asks whether the server lives has no limit.
        assert {httpx2.get(f"{server.url}/health").status_code for _ in range(5)} == {200}


def test_a_key_may_have_a_limit_of_its_own_and_workers_have_none(tmp_path: Path) -> None:
    with limited(tmp_path, requests_per_minute=1) as server:
        with server.service.database.write() as connection:
            made = create_key(
                connection,
                server.service.pepper,
                name="busy",
                project="default",
                scopes=("jobs",),
                requests_per_minute=5,
            )
        with server.client(key=made.secret, max_retries=0) as client:
            assert client.files.with_raw_response.list().headers["x-ratelimit-limit-requests"] == "5"
            client.files.list()
        worker = server.key("worker", "jobs")
        with server.client(key=worker, max_retries=0) as client:
            for _ in range(3):
                answer = client.files.with_raw_response.list()
            assert "x-ratelimit-limit-requests" not in answer.headers


def check_is_not_retried(caught: pytest.ExceptionInfo[RateLimitError]) -> None:
    assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
    assert caught.value.response.headers["x-should-retry"] == "false"
    # The client would have sent it three times.
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_a_project_has_so_many_jobs_that_are_not_over(tmp_path: Path) -> None:
    with limited(tmp_path, project_jobs=2) as server, server.client() as client:
        file = upload(client, chat_rows(10)).id
        jobs = [client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file).id for _ in range(2)]
        with pytest.raises(RateLimitError) as caught:
            client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file)
        check_is_not_retried(caught)
        with server.client(project="other") as other:
            mine = upload(other, chat_rows(10)).id
            other.fine_tuning.jobs.create(model="builtin:tiny", training_file=mine)
        client.fine_tuning.jobs.cancel(jobs[0])
        client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file)


def test_a_project_has_so_many_files(tmp_path: Path) -> None:
    with limited(tmp_path, project_files=2) as server, server.client() as client:
        first = upload(client, chat_rows(1))
        upload(client, chat_rows(2))
        with pytest.raises(RateLimitError) as caught:
            upload(client, chat_rows(3))
        check_is_not_retried(caught)
        client.files.delete(first.id)
        upload(client, chat_rows(3))


def test_a_project_has_so_many_bytes(tmp_path: Path) -> None:
    with limited(tmp_path, project_bytes=1000) as server, server.client() as client:
        first = client.files.create(file=b"x" * 600, purpose="fine-tune")
        with pytest.raises(RateLimitError) as caught:
            client.files.create(file=b"y" * 401, purpose="fine-tune")
        check_is_not_retried(caught)
        assert "600 of 1,000 bytes" in caught.value.message
        client.files.create(file=b"y" * 400, purpose="fine-tune")
        client.files.delete(first.id)
        client.files.create(file=b"z" * 600, purpose="fine-tune")


def add_queued(connection: Connection, number: int, project: str) -> None:
    add_job(
        connection,
        {
            "id": f"ftjob-{number}",
            "project": project,
            "created_at": float(number),
            "status": "queued",
            "model": "m",
            "training_file": "f",
            "seed": 0,
            "request": {},
            "hyperparameters": {},
        },
    )


def make_job(connection: Connection, number: int) -> None:
    check_job_quota(connection, "p", Limits(project_jobs=1))
    add_queued(connection, number, "p")


def make_file(limits: Limits, connection: Connection, number: int) -> None:
    check_file_quota(connection, "p", limits, 600)
    sha256 = f"{number:064x}"
    add_blob(connection, sha256, 600)
    add_file(connection, FileRecord(f"file-{number}", "p", "f", "fine-tune", 600, sha256, 0.0, None))


@pytest.mark.parametrize(
    "make",
    [
        make_job,
        partial(make_file, Limits(project_files=1, project_bytes=0)),
        partial(make_file, Limits(project_files=0, project_bytes=1000)),
    ],
    ids=["jobs", "files", "bytes"],
)
def test_two_at_once_do_not_share_the_last_place(
    make: Callable[[Connection, int], None], database: Database
) -> None:
    def second() -> None:
        with database.write() as connection:
            make(connection, 2)

    with ThreadPoolExecutor(1) as pool:
        with database.write() as connection:
            make(connection, 1)
            made = pool.submit(second)
            # Long enough to see too little, if it does not wait for this transaction.
            assert not wait([made], timeout=0.5).done
        with pytest.raises(ApiError, match="limit"):
            made.result(timeout=30)


def test_a_project_at_its_running_limit_waits_and_others_do_not(database: Database) -> None:
    with database.write() as connection:
        for number, project in enumerate("aaab"):
            add_queued(connection, number, project)

    def claim(most: int) -> JobRecord | None:
        with database.write() as connection:
            return claim_job(connection, "w", 600.0, most)

    first = claim(1)
    second = claim(1)
    assert first is not None
    assert second is not None
    assert [first.project, second.project] == ["a", "b"]
    assert claim(1) is None
    third = claim(2)
    assert third is not None
    assert third.project == "a"
    assert claim(2) is None
    assert claim(0) is not None


def test_a_key_has_so_many_streams_open(tmp_path: Path) -> None:
    with limited(tmp_path, key_streams=2) as server, httpx2.Client(verify=NO_CERTIFICATES) as http:
        secret = server.key()
        with server.client(key=secret) as client:
            file = upload(client, chat_rows(10)).id
            job = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file).id
        url = f"{server.url}/v1/fine_tuning/jobs/{job}/events?stream=true"
        headers = {"authorization": f"Bearer {secret}"}

        def is_let_in() -> bool:
            with http.stream("GET", url, headers=headers) as third:
                return third.status_code == 200

        with http.stream("GET", url, headers=headers) as first:
            # A generator that is thrown away closes its stream.
            lines = [first.iter_lines()]
            next(lines[0])
            with http.stream("GET", url, headers=headers) as second:
                lines.append(second.iter_lines())
                next(lines[1])
                refused = http.get(url, headers=headers)
                assert refused.status_code == 429
                assert refused.json()["error"]["code"] == "rate_limit_exceeded"
                assert refused.headers["retry-after"] == "5"
                assert http.get(url.partition("?")[0], headers=headers).status_code == 200
            wait_until(is_let_in, "a stream that was hung up is not counted any more")
