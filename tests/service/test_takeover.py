"""A job whose worker was killed goes on in another folder from what was uploaded, and ends as any other."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from service_server import (
    RunningServer,
    chat_rows,
    child,
    serve_as_process,
    upload,
    wait_for_status,
    wait_until,
)
from tunewright.service.db.artifacts import find_model, newest_state

STEPS = 80
"""So many that the job is far from its end when the first state is uploaded."""
RESUMED = re.compile(r"Resumed from step (\d+)")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("takeover")
    with serve_as_process(folder, "--workers", "0", "--lease-seconds", "4", "--inference", "off") as running:
        yield running


def create(client: OpenAI, file: str, validation: str) -> str:
    asked = {"n_epochs": 2, "batch_size": 2, "seq_len": 64, "lora_r": 4, "lora_dropout": 0.1}
    job = client.fine_tuning.jobs.create(
        model="builtin:tiny",
        training_file=file,
        validation_file=validation,
        seed=5,
        extra_body={"hyperparameters": asked},
    )
    return job.id


def result(server: RunningServer, client: OpenAI, job: Any) -> tuple[str, str]:
    """The result file, and the hash of the adapter."""
    with server.service.database.read() as connection:
        model = find_model(connection, "default", job.fine_tuned_model)
    assert model is not None
    [weights] = [file for file in model.files if file.path == "adapter_model.safetensors"]
    data = b"".join(server.service.blobs.read(weights.sha256))
    return client.files.content(job.result_files[0]).text, hashlib.sha256(data).hexdigest()


def test_another_worker_goes_on_from_the_uploaded_state(server: RunningServer, tmp_path: Path) -> None:
    def worker(name: str) -> Any:
        given = ("worker", "--server", server.url, "--folder", tmp_path / name)
        return child(tmp_path, *given, log=f"{name}.log", TUNEWRIGHT_KEY=server.key("worker"))

    def uploaded(job: str) -> int:
        with server.service.database.read() as connection:
            state = newest_state(connection, job)
        return state.step if state else 0

    with server.client() as client:
        files = (upload(client, chat_rows(STEPS)).id, upload(client, chat_rows(10)).id)
        job = create(client, *files)
        with worker("first") as process:
            wait_until(lambda: uploaded(job) >= 4, "a state is uploaded", seconds=180)
            os.kill(process.pid, signal.SIGKILL)
        before = uploaded(job)
        whole = create(client, *files)
        with worker("second"):
            done = wait_for_status(client, job, "succeeded")
            reference = wait_for_status(client, whole, "succeeded")
        assert result(server, client, done) == result(server, client, reference)
        events = list(client.fine_tuning.jobs.list_events(job, limit=100))[::-1]
    assert before < STEPS, "the job was over before its worker was killed"
    told = [event for event in events if event.type == "metrics"]
    assert [event.data["step"] for event in told] == list(range(1, STEPS + 1))
    assert {event.data["total_steps"] for event in told} == {STEPS}
    assert told[-1].message.startswith(f"Step {STEPS}/{STEPS}: ")
    resumed = [int(match[1]) for event in events if (match := RESUMED.fullmatch(event.message))]
    # A state may be on its way when the worker is killed, and a busy machine may lose the job once more.
    assert resumed == sorted(resumed)
    assert before <= resumed[0] < STEPS
