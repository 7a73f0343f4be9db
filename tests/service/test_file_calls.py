"""Files through the official client, on both databases."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from service_server import RunningServer

LINE = b'{"messages": []}\n'


@pytest.fixture
def client(any_server: RunningServer, project: str) -> Iterator[OpenAI]:
    with any_server.client(project=project, max_retries=0) as found:
        yield found


@pytest.mark.parametrize("kind", ["path", "bytes", "BytesIO"])
def test_upload_from(kind: str, client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINE)
    given = {"path": path, "bytes": LINE, "BytesIO": io.BytesIO(LINE)}[kind]
    made = client.files.create(file=given, purpose="fine-tune")
    assert made.id.startswith("file-")
    assert (made.bytes, made.purpose, made.status) == (len(LINE), "fine-tune", "processed")
    assert made.filename == ("rows.jsonl" if kind == "path" else "upload")
    assert made.expires_at is None
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == LINE
    assert client.files.wait_for_processing(made.id).id == made.id


def test_expiry_is_counted_from_creation(client: OpenAI) -> None:
    made = client.files.create(
        file=LINE, purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert made.expires_at == made.created_at + 3600


@pytest.mark.parametrize("seconds", [3599, 2_592_001])
def test_expiry_outside_its_range_is_refused(seconds: int, client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.files.create(
            file=LINE, purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": seconds}
        )
    assert (caught.value.param, caught.value.code) == ("expires_after.seconds", "invalid_value")


def test_pages_of_two_over_five(client: OpenAI) -> None:
    made = [client.files.create(file=b"%d\n" % number, purpose="fine-tune").id for number in range(5)]
    page = client.files.list(limit=2)
    assert [file.id for file in page.data] == made[:-3:-1]
    assert page.has_more
    assert [file.id for file in page] == made[::-1]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == made


def test_list_by_purpose(client: OpenAI) -> None:
    client.files.create(file=LINE, purpose="batch")
    wanted = client.files.create(file=LINE, purpose="fine-tune")
    assert [file.id for file in client.files.list(purpose="fine-tune")] == [wanted.id]


def test_after_an_unknown_id_is_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.files.list(after="file-none")
    assert caught.value.param == "after"


def test_a_deleted_file_is_gone(client: OpenAI) -> None:
    made = client.files.create(file=LINE, purpose="fine-tune")
    gone = client.files.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "file", True)
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(NotFoundError) as caught:
            call(made.id)
        assert caught.value.code == "file_not_found"
        assert caught.value.request_id
    assert not client.files.list().data
