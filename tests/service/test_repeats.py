"""A create call that is sent again makes one object, whatever the network did to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from openai import BadRequestError, OpenAI
from openai.types.fine_tuning import FineTuningJob
from sqlalchemy import update

from service_proxy import FaultProxy, fault_proxy
from service_server import RunningServer, chat_rows, upload, wait_until
from tunewright.service.db.tables import replays


@pytest.fixture
def client(any_server: RunningServer, project: str) -> Iterator[OpenAI]:
    with any_server.client(project=project, max_retries=0) as found:
        yield found


@pytest.fixture
def proxy(any_server: RunningServer) -> Iterator[FaultProxy]:
    with fault_proxy(any_server.url) as found:
        yield found


@pytest.fixture
def hasty(proxy: FaultProxy, client: OpenAI) -> Iterator[OpenAI]:
    """The client with its own retries and a second of patience, behind the proxy."""
    with client.with_options(base_url=f"{proxy.url}/v1", timeout=1, max_retries=2) as found:
        yield found


def jobs(client: OpenAI) -> list[str]:
    return [job.id for job in client.fine_tuning.jobs.list()]


def test_a_lost_answer_makes_one_job(client: OpenAI, hasty: OpenAI, proxy: FaultProxy) -> None:
    file = upload(client, chat_rows(10)).id
    proxy.hold_answers = 1
    job = hasty.fine_tuning.jobs.create(model="builtin:tiny", training_file=file)
    assert proxy.connections == 2
    assert jobs(client) == [job.id]


def test_a_lost_answer_makes_one_file(client: OpenAI, hasty: OpenAI, proxy: FaultProxy) -> None:
    proxy.hold_answers = 2
    file = hasty.files.create(file=b"{}\n", purpose="fine-tune")
    assert proxy.connections == 3
    assert [found.id for found in client.files.list()] == [file.id]


def test_a_request_that_arrives_after_its_repeat_makes_nothing(
    client: OpenAI, hasty: OpenAI, proxy: FaultProxy
) -> None:
    file = upload(client, chat_rows(10)).id
    calls: list[Callable[[], Any]] = [
        lambda: hasty.fine_tuning.jobs.create(model="builtin:tiny", training_file=file),
        lambda: hasty.files.create(file=b"{}\n", purpose="batch"),
    ]
    made = []
    for call in calls:
        proxy.hold_requests = 1
        made.append(call().id)
    proxy.let_go()
    # One more call through the proxy; by its answer the late ones have been handled, or are being so.
    assert len(hasty.files.list().data) == 2
    with pytest.raises(AssertionError):
        wait_until(lambda: len(jobs(client)) > 1 or len(client.files.list().data) > 2, "a second", 1.0)
    assert jobs(client) == made[:1]


def test_two_equal_calls_on_purpose_make_two_jobs(client: OpenAI) -> None:
    file = upload(client, chat_rows(10)).id
    made = {
        client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file, seed=1).id for _ in range(2)
    }
    assert len(made) == 2


def test_an_idempotency_key_makes_one(client: OpenAI) -> None:
    file = upload(client, chat_rows(10)).id

    def create(name: str) -> str:
        return client.fine_tuning.jobs.create(
            model="builtin:tiny", training_file=file, extra_headers={"Idempotency-Key": name}
        ).id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(create, ["same"] * 8))) == 1
    assert create("same") == jobs(client)[0]
    assert create("other") not in (create("same"),)
    assert len(jobs(client)) == 2


Change = dict[str, Any]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"suffix": "s"},
        {"metadata": {"a": "b"}},
        {"extra_body": {"hyperparameters": {"n_epochs": 2}}},
        {"extra_body": {"x_config": {"train": {"schedule": "constant"}}}},
        {"model": "ft:none"},
    ],
)
def test_a_key_that_comes_with_another_job_makes_nothing(change: Change, client: OpenAI) -> None:
    first: Change = {
        "model": "builtin:tiny",
        "training_file": upload(client, chat_rows(10)).id,
        "seed": 1,
        "extra_headers": {"Idempotency-Key": "once"},
    }
    made = client.fine_tuning.jobs.create(**first)
    with pytest.raises(BadRequestError) as caught:
        client.fine_tuning.jobs.create(**{**first, **change})
    assert (caught.value.param, caught.value.code) == ("Idempotency-Key", "idempotency_key_reused")
    assert jobs(client) == [made.id]
    # The refusal used nothing up.
    assert client.fine_tuning.jobs.create(**first).id == made.id


@pytest.mark.parametrize(
    "change",
    [
        {"file": b"2\n"},
        {"file": ("other.jsonl", b"1\n")},
        {"purpose": "evals"},
        {"expires_after": {"anchor": "created_at", "seconds": 3600}},
    ],
)
def test_a_key_that_comes_with_another_upload_makes_nothing(change: Change, client: OpenAI) -> None:
    first: Change = {"file": b"1\n", "purpose": "batch", "extra_headers": {"Idempotency-Key": "once"}}
    made = client.files.create(**first)
    with pytest.raises(BadRequestError) as caught:
        client.files.create(**{**first, **change})
    assert (caught.value.param, caught.value.code) == ("Idempotency-Key", "idempotency_key_reused")
    assert [found.id for found in client.files.list()] == [made.id]
    assert client.files.create(**first).id == made.id


def test_the_same_body_written_otherwise_is_the_same(client: OpenAI) -> None:
    file = upload(client, chat_rows(10)).id
    headers = {"Idempotency-Key": "once"}
    body = {"model": "builtin:tiny", "training_file": file, "metadata": {"a": "1", "b": "2"}}
    other = {"seed": None, "metadata": {"b": "2", "a": "1"}, "training_file": file, "model": "builtin:tiny"}
    made = {
        client.post("/fine_tuning/jobs", cast_to=FineTuningJob, body=each, options={"headers": headers}).id
        for each in (body, other)
    }
    assert len(made) == 1


def test_of_two_bodies_at_once_one_is_made(client: OpenAI) -> None:
    file = upload(client, chat_rows(10)).id

    def create(seed: int) -> str:
        try:
            return client.fine_tuning.jobs.create(
                model="builtin:tiny",
                training_file=file,
                seed=seed % 2,
                extra_headers={"Idempotency-Key": "once"},
            ).id
        except BadRequestError as error:
            return str(error.code)

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(create, range(8)))
    assert answers == {*jobs(client), "idempotency_key_reused"}
    assert len(jobs(client)) == 1


def test_a_key_of_before_the_bodies_were_kept_goes_on(any_server: RunningServer, client: OpenAI) -> None:
    headers = {"Idempotency-Key": "older"}
    made = client.files.create(file=b"1\n", purpose="batch", extra_headers=headers)
    with any_server.service.database.write() as connection:
        connection.execute(update(replays).where(replays.c.object_id == made.id).values(body_hash=None))
    assert client.files.create(file=b"2\n", purpose="batch", extra_headers=headers).id == made.id


@pytest.mark.parametrize("given", [[""], ["x" * 256], ["a", "a"]])
def test_a_key_that_is_none_is_refused(given: list[str], any_server: RunningServer, client: OpenAI) -> None:
    headers = [("authorization", f"Bearer {client.api_key}"), *(("idempotency-key", each) for each in given)]
    answer = httpx2.post(f"{any_server.url}/v1/fine_tuning/jobs", headers=headers, json={})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key"), answer.text


def test_a_count_of_any_length_is_no_fault_of_the_server(client: OpenAI) -> None:
    for count in ("9" * 5000, "-1", "two"):
        client.files.create(file=b"{}", purpose="batch", extra_headers={"x-stainless-retry-count": count})


def test_repeats_of_one_call_at_once_make_one(client: OpenAI) -> None:
    file = upload(client, chat_rows(10)).id

    def create(count: int) -> str:
        return client.fine_tuning.jobs.create(
            model="builtin:tiny",
            training_file=file,
            extra_headers={"x-stainless-retry-count": str(count)},
        ).id

    first = create(0)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(create, range(1, 9))) == {first}


def test_another_projects_repeat_is_its_own(any_server: RunningServer, client: OpenAI) -> None:
    headers = {"Idempotency-Key": "same"}
    mine = client.files.create(file=b"1\n", purpose="batch", extra_headers=headers)
    with any_server.client(project="stranger-of-repeats") as stranger:
        theirs = stranger.files.create(file=b"1\n", purpose="batch", extra_headers=headers)
    assert mine.id != theirs.id
