"""`x_config`: what it may say, and that it reaches the run file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from service_server import RunningServer, chat_rows, upload
from service_worker import HandWorker, worker_by_hand
from tunewright.config.settings import list_settings
from tunewright.service.extra_config import ALLOWED, HYPERPARAMETERS


@pytest.fixture
def worker(server: RunningServer, tmp_path: Path) -> Iterator[HandWorker]:
    with worker_by_hand(server, tmp_path) as found:
        yield found


def create(client: OpenAI, extra: Any, **given: Any) -> Any:
    file = upload(client, chat_rows(10)).id
    return client.fine_tuning.jobs.create(
        model="builtin:tiny", training_file=file, extra_body={"x_config": extra, **given}
    )


def test_every_name_is_a_setting_of_the_run_file() -> None:
    known = {setting.path for setting in list_settings()}
    assert {*ALLOWED, *HYPERPARAMETERS} <= known
    assert not set(ALLOWED) & HYPERPARAMETERS.keys()


def test_no_setting_that_names_a_place_or_a_program_is_allowed() -> None:
    free_text = {
        setting.path for setting in list_settings() if setting.kind == "text" or "path" in setting.kind
    }
    assert free_text
    assert not free_text & set(ALLOWED)


def test_it_reaches_the_run_file(client: OpenAI, worker: HandWorker) -> None:
    extra = {
        "train": {"schedule": "constant", "weight_decay": 0.1},
        "data": {"train_on": "all", "overlong": "drop"},
    }
    job = create(client, extra, hyperparameters={"lora_r": 4})
    assert job.model_dump()["x_config"] == extra
    lease = worker.claim_job(job.id)
    assert lease.settings["data"] == {"format": "auto", **extra["data"]}
    assert "train" not in lease.settings
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    job = create(client, extra, hyperparameters={"lora_r": 4})
    settings = worker.begin(job.id).settings
    assert settings["train"]["schedule"] == "constant"
    assert settings["train"]["batch_size"] == 1
    assert settings["data"]["overlong"] == "drop"
    assert settings["adapter"]["rank"] == 4


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"train": {"batch_size": 4}}, "train.batch_size"),
        ({"model": {"name": "/etc/passwd"}}, "model.name"),
        ({"model": "/etc/passwd"}, "model"),
        ({"model": {"quantization": {"kind": "nf4"}}}, "model.quantization"),
        ({"data": {"chat_template": "/x"}}, "data.chat_template"),
        ({"data": {"train": ["/x"]}}, "data.train"),
        ({"track": ["wandb"]}, "track"),
        ({"train.precision": "fp32"}, "train.precision"),
        ({"train.precision": {}}, "train.precision"),
        ({"checkpoint": {"keep": 0}}, "checkpoint.keep"),
        ({"train": {"schedule": "zigzag"}}, "train.schedule"),
        ({"train": {"weight_decay": -1}}, "train.weight_decay"),
        ({"train": {"max_grad_norm": {"a": 1}}}, "train.max_grad_norm"),
        ({"nothing": {}}, "nothing"),
        ({"a" * 3000: {"b": 1}}, "a" * 200),
    ],
)
def test_refused(extra: dict[str, Any], param: str, client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        create(client, extra)
    assert caught.value.param == f"x_config.{param}"
    assert "Traceback" not in caught.value.message
    assert "run file" not in caught.value.message


def test_nothing_is_fine(client: OpenAI) -> None:
    assert create(client, None).model_dump()["x_config"] is None
    assert create(client, {}).status == "validating_files"
