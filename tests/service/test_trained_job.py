"""What is left of a job that a real worker trained to its end."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from service_server import RunningServer

METRICS = {
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
}


@pytest.fixture(scope="module")
def client(service_process: RunningServer) -> Iterator[OpenAI]:
    with service_process.client(project="trained") as found:
        yield found


@pytest.fixture(scope="module")
def job(client: OpenAI, trained_job: str) -> Any:
    return client.fine_tuning.jobs.retrieve(trained_job)


def test_the_job_is_whole(job: Any) -> None:
    assert job.status == "succeeded"
    assert job.error is None
    assert job.finished_at >= job.created_at
    assert job.trained_tokens > 0
    assert job.fine_tuned_model.startswith("ft:builtin:tiny:trained:sums:")
    shown = job.model_dump()["hyperparameters"]
    assert shown == job.model_dump()["method"]["supervised"]["hyperparameters"]
    assert {name: shown[name] for name in ("n_epochs", "batch_size", "lora_r", "learning_rate")} == {
        "n_epochs": 2,
        "batch_size": 4,
        "lora_r": 8,
        "learning_rate": 1e-3,
    }


def test_events_come_in_order_with_openais_words(client: OpenAI, job: Any) -> None:
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))[::-1]
    assert len({event.id for event in events}) == len(events)
    assert [event.created_at for event in events] == sorted(event.created_at for event in events)
    steps = [event for event in events if event.type == "metrics"]
    assert [event.data["step"] for event in steps] == [1, 2, 3, 4, 5, 6]
    for event in steps:
        data = event.data
        assert data["total_steps"] == 6
        assert event.message.startswith(f"Step {data['step']}/6: training loss={data['train_loss']:.2f}")
    last = steps[-1].data
    assert last.keys() >= METRICS
    assert f"full validation loss={last['full_valid_loss']:.2f}" in steps[-1].message
    messages = [event.message for event in events if event.type == "message"]
    assert messages[0] == f"Created fine-tuning job: {job.id}"
    assert messages[-2:] == [
        f"New fine-tuned model created: {job.fine_tuned_model}",
        "The job has successfully completed",
    ]


def test_each_epoch_left_a_checkpoint_model(client: OpenAI, job: Any) -> None:
    found = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert [checkpoint.step_number for checkpoint in found] == [6, 3]
    for checkpoint in found:
        name = checkpoint.fine_tuned_model_checkpoint
        assert name == f"{job.fine_tuned_model}:ckpt-step-{checkpoint.step_number}"
        assert client.models.retrieve(name).id == name
        assert checkpoint.metrics.model_dump().keys() == METRICS | {"step"}
    assert found[0].metrics.valid_loss < found[1].metrics.valid_loss


def test_result_files(client: OpenAI, job: Any) -> None:
    first, second = (client.files.retrieve(file) for file in job.result_files)
    assert (first.purpose, first.filename) == ("fine-tune-results", "step_metrics.csv")
    assert second.filename == "all_metrics.csv"
    rows = list(csv.reader(io.StringIO(client.files.content(first.id).text)))
    assert rows[0] == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert [row[0] for row in rows[1:]] == ["1", "2", "3", "4", "5", "6"]
    assert rows[3][3]
    assert float(rows[6][1]) < float(rows[1][1])
    every = list(csv.DictReader(io.StringIO(client.files.content(second.id).text)))
    wanted = {"step", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "gpu_memory_used"}
    assert wanted <= every[0].keys()
    by_step = {row["step"]: row for row in every}
    assert [by_step[row[0]]["loss"] for row in rows[1:]] == [row[1] for row in rows[1:]]


def test_the_model_is_listed_for_its_project_only(
    client: OpenAI, service_process: RunningServer, job: Any
) -> None:
    assert job.fine_tuned_model in [model.id for model in client.models.list()]
    with service_process.client(project="stranger") as stranger:
        assert [model.id for model in stranger.models.list()] == ["builtin:tiny"]
