"""What is left of a job that a real worker trained to its end."""

from __future__ import annotations

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
