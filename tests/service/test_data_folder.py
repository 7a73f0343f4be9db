"""`--data-dir`: a job names a file that the operator laid ready."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import BadRequestError, OpenAI

from service_server import RunningServer, serve_here
from tunewright.service.settings import ServeSettings

DATA = b'{"messages": []}\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("ready")
    (found / "sums.jsonl").write_bytes(DATA)
    (found / "below").mkdir()
    (found / "below" / "deep.jsonl").write_bytes(DATA)
    (found.parent / "outside.jsonl").write_bytes(DATA)
    (found / "link.jsonl").symlink_to(found.parent / "outside.jsonl")
    os.mkfifo(found / "pipe.jsonl")
    return found


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve_here(ServeSettings(home=tmp_path_factory.mktemp("home"), data_dir=folder)) as running:
        yield running


def test_a_ready_file_becomes_a_file_of_the_project(client: OpenAI, folder: Path) -> None:
    headers = {"Idempotency-Key": "once"}
    jobs = [
        client.fine_tuning.jobs.create(
            model="builtin:tiny",
            training_file="sums.jsonl",
            validation_file="sums.jsonl",
            extra_headers=headers,
        )
        for _ in range(2)
    ]
    assert jobs[0].id == jobs[1].id
    assert jobs[0].validation_file
    for file in (jobs[0].training_file, jobs[0].validation_file):
        found = client.files.retrieve(file)
        assert (found.filename, found.purpose) == ("sums.jsonl", "fine-tune")
        assert client.files.content(file).read() == DATA
    assert len(client.files.list().data) == 2


@pytest.mark.parametrize(
    "name",
    [
        "none.jsonl",
        "below",
        "below/deep.jsonl",
        "../outside.jsonl",
        "link.jsonl",
        "pipe.jsonl",
        ".",
        "..",
        "/",
    ],
)
def test_nothing_else_can_be_named(name: str, client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.fine_tuning.jobs.create(model="builtin:tiny", training_file=name)
    assert (caught.value.param, caught.value.code) == ("training_file", "file_not_found")
    assert not client.files.list().data


def test_an_absolute_path_is_no_name(client: OpenAI, folder: Path) -> None:
    with pytest.raises(BadRequestError):
        client.fine_tuning.jobs.create(model="builtin:tiny", training_file=str(folder / "sums.jsonl"))
