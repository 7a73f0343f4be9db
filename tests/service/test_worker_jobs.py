"""Jobs that a real worker takes: files as people have them, broken ones, and commands to look after them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from processes import child_environment, command_line
from service_server import RunningServer, chat_rows, upload, wait_for_status

# A folder of sample files as people have them; they are not part of the project.
DATA = Path(os.environ.get("TUNEWRIGHT_SAMPLES", "samples"))
SMALL = {"n_epochs": 1, "batch_size": 256}


@pytest.fixture
def client(service_process: RunningServer, project: str) -> Iterator[OpenAI]:
    with service_process.client(project=project) as found:
        yield found


def create(client: OpenAI, file: str, **extra: Any) -> Any:
    hyperparameters = {**SMALL, "seq_len": 128, **extra.pop("hyperparameters", {})}
    return client.fine_tuning.jobs.create(
        model=extra.pop("model", "builtin:tiny"),
        training_file=file,
        extra_body={"hyperparameters": hyperparameters, **extra},
    )


def alpaca_rows() -> list[dict[str, Any]]:
    return [
        {"instruction": f"Add {number} and one.", "input": "", "output": f"It is {number + 1}."}
        for number in range(12)
    ]


def sharegpt_rows() -> list[dict[str, Any]]:
    return [
        {
            "conversations": [
                {"from": "human", "value": f"Add {number} and one."},
                {"from": "gpt", "value": f"It is {number + 1}."},
            ]
        }
        for number in range(12)
    ]


def test_an_array_of_rows_in_another_format(client: OpenAI) -> None:
    """A `.json` file with an array, as ShareGPT and Alpaca files come, in a job without validation data."""
    data = json.dumps(sharegpt_rows(), indent=2).encode()
    file = client.files.create(file=("train.json", data), purpose="fine-tune")
    job = create(client, file.id, format="sharegpt")
    wait_for_status(client, job.id, "succeeded")


def test_a_checkpoint_is_a_model_to_go_on_from(service_process: RunningServer, trained_job: str) -> None:
    with service_process.client(project="trained") as client:
        first = client.fine_tuning.jobs.checkpoints.list(trained_job).data[-1]
        file = upload(client, alpaca_rows()).id
        job = create(
            client,
            file,
            model=first.fine_tuned_model_checkpoint,
            format="alpaca",
            hyperparameters={"lora_r": 8},
        )
        done = wait_for_status(client, job.id, "succeeded")
        assert done.fine_tuned_model.startswith("ft:builtin:tiny:")


def test_a_broken_file_fails_with_its_lines(client: OpenAI) -> None:
    rows: list[Any] = chat_rows(12)
    rows[3] = {"messages": [{"role": "user", "content": "nobody answers"}]}
    rows[7] = {"messages": []}
    job = create(client, upload(client, rows).id)
    failed = wait_for_status(client, job.id, "failed")
    assert (failed.error.code, failed.error.param) == ("invalid_training_file", "training_file")
    assert ":4" in failed.error.message
    assert ":8" in failed.error.message
    assert "/" not in failed.error.message.replace("and/or", "")
    last = client.fine_tuning.jobs.list_events(job.id).data[0]
    assert (last.level, failed.error.message in last.message) == ("error", True)


def test_jobs_commands(service_process: RunningServer, project: str, tmp_path: Path) -> None:
    key = service_process.key(project=project)
    environment = child_environment(
        tmp_path, {"TUNEWRIGHT_SERVER": service_process.url, "TUNEWRIGHT_KEY": key}
    )

    def jobs(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command_line(["jobs", *arguments]), env=environment, capture_output=True, text=True, timeout=180
        )

    with service_process.client(key=key) as client:
        file = upload(client, chat_rows(12)).id
        job = create(client, file).id
        watched = jobs("watch", job)
        assert watched.returncode == 0, watched.stderr
        lines = watched.stdout.splitlines()
        assert lines[0].endswith(f"Created fine-tuning job: {job}")
        assert lines[-1] == f"{job}: succeeded"
        other = create(client, file).id
        stopped = jobs("cancel", other)
        assert stopped.stdout == f"{other}: cancelled\n"
    assert jobs("watch", other).returncode == 1
    assert [line.split()[:2] for line in jobs("list").stdout.splitlines()] == [
        [other, "cancelled"],
        [job, "succeeded"],
    ]
    assert json.loads(jobs("show", job).stdout)["status"] == "succeeded"
    missing = jobs("show", "ftjob-none")
    assert (missing.returncode, "error[service.no-job]" in missing.stderr) == (1, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "format_"), [("alpaca_en_demo.json", "alpaca"), ("glaive_toolcall_en_demo.json", "sharegpt")]
)
@pytest.mark.skipif(not DATA.exists(), reason="TUNEWRIGHT_SAMPLES names no folder of sample files")
def test_sample_files_as_they_are(name: str, format_: str, client: OpenAI) -> None:
    file = client.files.create(file=DATA / name, purpose="fine-tune")
    job = create(client, file.id, format=format_)
    done = wait_for_status(client, job.id, "succeeded", seconds=280)
    assert done.trained_tokens > 1000
