"""Files are checked while another job trains; what a model's files make of a check ends with its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from service_server import RunningServer, chat_rows, serve_as_process, upload, wait_for_status, wait_until
from tunewright.models.resolve import resolve_model

SPIN = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = (
    "{% set ns = namespace(s='xxxxxxxxxx') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
)
LATER = "{%% if messages[0].content == 'bomb' %%}%s{%% endif %%}{{ messages[-1].content }}"


def slow_pattern(settings: dict[str, Any]) -> None:
    settings["pre_tokenizer"] = {
        "type": "Split", "pattern": {"Regex": "(a|a|aa)+$"}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip


MODELS: dict[str, str | Callable[[dict[str, Any]], None]] = {
    "spins": SPIN,
    "doubles": DOUBLED,
    "spins-later": LATER % SPIN,
    "doubles-later": LATER % DOUBLED,
    "fills": LATER % "{{ '%2000000000d' % 1 }}",
    "slow": slow_pattern,
}
BOMBS = [
    {
        "messages": [
            {"role": "user", "content": "bomb"},
            {"role": "assistant", "content": "a" * 60 + "!"},
        ]
    }
]


def make_model(folder: Path, spoil: str | Callable[[dict[str, Any]], None]) -> Path:
    folder.mkdir()
    for path in resolve_model("builtin:tiny").folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    if isinstance(spoil, str):
        (folder / "chat_template.jinja").write_text(spoil, encoding="utf-8")
    else:
        settings = json.loads((folder / "tokenizer.json").read_bytes())
        spoil(settings)
        (folder / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("checks")
    given: list[str | Path] = ["--lease-seconds", "20", "--inference", "off"]
    given += ["--limit", "project_running=1"]
    for name, spoil in MODELS.items():
        given += ["--model", f"{name}={make_model(folder / name, spoil)}"]
    with serve_as_process(folder, *given) as running:
        yield running


@pytest.fixture
def trains(server: RunningServer) -> Iterator[tuple[OpenAI, str]]:
    """A client, and a job of its project that trains until it is cancelled."""
    with server.client(project="busy") as client:
        file = upload(client, chat_rows(400)).id
        job = client.fine_tuning.jobs.create(
            model="builtin:tiny",
            training_file=file,
            extra_body={"hyperparameters": {"n_epochs": 50, "batch_size": 4}},
        ).id
        wait_for_status(client, job, "running")
        yield client, job
        client.fine_tuning.jobs.cancel(job)


def test_a_broken_file_is_told_while_a_job_trains(trains: tuple[OpenAI, str]) -> None:
    client, running = trains
    bad = client.files.create(file=b"hello\n" * 20, purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=bad).id
    failed = wait_for_status(client, job, "failed")
    assert failed.error.code == "invalid_training_file"
    assert f"({failed.training_file}):" in failed.error.message
    assert client.fine_tuning.jobs.retrieve(running).status == "running"
    good = client.fine_tuning.jobs.create(
        model="builtin:tiny", training_file=upload(client, chat_rows(10)).id
    )
    wait_for_status(client, good.id, "queued")
    # One may be trained of this project, and it still is.
    assert client.fine_tuning.jobs.retrieve(running).status == "running"
    client.fine_tuning.jobs.cancel(good.id)


def test_a_check_is_cancelled_beside_a_job_that_trains(trains: tuple[OpenAI, str]) -> None:
    client, running = trains
    job = client.fine_tuning.jobs.create(model="slow", training_file=upload(client, chat_rows(10)).id).id
    client.fine_tuning.jobs.cancel(job)
    assert client.fine_tuning.jobs.retrieve(job).status == "cancelled"
    bad = client.files.create(file=b"hello\n" * 20, purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=bad).id
    wait_for_status(client, job, "failed")
    assert client.fine_tuning.jobs.retrieve(running).status == "running"


@pytest.mark.parametrize("name", MODELS)
def test_a_hostile_model_is_named_and_not_the_file(name: str, server: RunningServer) -> None:
    with server.client(project="hostile") as client:
        file = upload(client, [*chat_rows(12), *BOMBS]).id
        job = client.fine_tuning.jobs.create(model=name, training_file=file).id
        failed = wait_until(lambda: ended(client, job), f"the check of {name} ends", 120)
        assert failed.status == "failed"
        assert failed.error.param == "model", failed.error
        # Some patterns give up by themselves.
        costly = ("model.costly-to-read", "takes more than 3 s of computing or 768 MiB")
        broken = ("model.bad-tokenizer", "the tokenizer of the model fails")
        code, said = broken if name == "slow" and failed.error.code == "model.bad-tokenizer" else costly
        assert failed.error.code == code, failed.error
        assert said in failed.error.message


def ended(client: OpenAI, job: str) -> Any:
    found = client.fine_tuning.jobs.retrieve(job)
    return found if found.status in ("failed", "queued", "running", "succeeded") else None
