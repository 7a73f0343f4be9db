"""What a program of ours looks like to the official client, in every version of it.

Run by test_client_versions.py and `make conformance` with the interpreter and the `openai` that they choose:
BASE_URL, API_KEY and STEPS in the environment. STEPS `quick` needs no worker; `full` trains. It uses nothing
of Tunewright and nothing that openai 1.x does not have.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import openai
from openai import OpenAI

URL, KEY = os.environ["BASE_URL"], os.environ["API_KEY"]
client = OpenAI(base_url=URL, api_key=KEY, max_retries=0)
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {number} plus {number}?"},
            {"role": "assistant", "content": f"It is {2 * number}."},
        ]
    }
    for number in range(12)
]
DATA = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def refused(kind: type[Exception], call: Callable[[], Any], **fields: Any) -> Any:
    """The error of a call that must be refused as `kind`, with these fields."""
    found: Any = None
    try:
        call()
    except kind as error:
        found = error
    assert type(found) is kind, (found, kind, fields)
    for name, value in fields.items():
        assert getattr(found, name) == value, (name, getattr(found, name), value)
    assert found.request_id
    return found


def files() -> str:
    made = client.files.create(file=io.BytesIO(DATA), purpose="fine-tune")
    assert (made.object, made.bytes, made.purpose) == ("file", len(DATA), "fine-tune"), made
    assert client.files.content(made.id).read() == DATA
    assert client.files.retrieve(made.id).id == made.id
    others = [client.files.create(file=("rows.jsonl", DATA), purpose="fine-tune").id for _ in range(4)]
    listed = [file.id for file in client.files.list(limit=2, purpose="fine-tune")]
    assert listed[:5] == [*others[::-1], made.id], listed
    for file in others:
        assert client.files.delete(file).deleted
    expires: Any = {"anchor": "created_at", "seconds": 7200}
    passing = client.files.create(file=DATA, purpose="fine-tune", extra_body={"expires_after": expires})
    assert passing.expires_at == passing.created_at + 7200, passing
    refused(openai.NotFoundError, lambda: client.files.retrieve("file-none"), code="file_not_found")
    return made.id


def errors(file: str) -> None:
    jobs = client.fine_tuning.jobs
    bad = openai.BadRequestError
    refused(
        bad,
        lambda: jobs.create(model="builtin:tiny", training_file=file, seed=-1),
        param="seed",
        code="invalid_value",
        type="invalid_request_error",
    )
    refused(
        bad,
        lambda: jobs.create(
            model="builtin:tiny",
            training_file=file,
            hyperparameters={"n_epochs": 2},
            extra_body={"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}},
        ),
        param="hyperparameters.n_epochs",
        code="conflicting_values",
    )
    refused(bad, lambda: jobs.create(model="none", training_file=file), code="model_not_found")
    missing = openai.NotFoundError
    refused(missing, lambda: jobs.retrieve("ftjob-none"), code="fine_tune_not_found")
    refused(missing, lambda: client.models.retrieve("a/b:c"), code="model_not_found")
    refused(bad, lambda: jobs.list(after="ftjob-none"), param="after")
    stranger = OpenAI(base_url=URL, api_key="ftk_wrong", max_retries=0)
    refused(openai.AuthenticationError, lambda: stranger.models.list(), code="invalid_api_key")
    other = OpenAI(base_url=URL, api_key=KEY, project="not-this-one", max_retries=0)
    refused(openai.PermissionDeniedError, lambda: other.models.list())


def jobs(file: str) -> None:
    api = client.fine_tuning.jobs
    job: Any = api.create(
        model="builtin:tiny",
        training_file=file,
        validation_file=None,
        suffix=None,
        integrations=None,
        seed=7,
        extra_body={
            "metadata": {"team": "a", "empty": ""},
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
            "hyperparameters": {"lora_r": 8},
        },
    )
    assert (job.object, job.status, job.seed) == ("fine_tuning.job", "validating_files", 7), job
    assert (job.error, job.result_files, job.finished_at) == (None, [], None), job
    assert job.model_dump()["hyperparameters"]["lora_r"] == 8
    assert api.retrieve(job.id).id == job.id
    plain = api.create(model="builtin:tiny", training_file=file)
    assert [found.id for found in api.list(limit=1)][:2] == [plain.id, job.id]
    # The older clients leave out a parameter without a value.
    empty: list[dict[str, str]] = [{"metadata[empty]": ""}] if openai.__version__ >= "3" else []
    for query in ({"metadata[team]": "a"}, *empty):
        assert [found.id for found in api.list(extra_query=query)] == [job.id], query
    assert job.id not in [found.id for found in api.list(extra_query={"metadata": "null"})]
    told = [event.message for event in api.list_events(job.id, limit=1)]
    assert told[-1] == f"Created fine-tuning job: {job.id}", told
    assert api.checkpoints.list(job.id).data == []
    for each in (job, plain):
        assert api.cancel(each.id).status == "cancelled"
        assert api.cancel(each.id).status == "cancelled"
    refused(openai.BadRequestError, lambda: act(job.id, "resume"), code="job_already_completed")


def act(job_id: str, action: str) -> Any:
    """Pause or resume; the first clients have no method for it."""
    api: Any = client.fine_tuning.jobs
    method = getattr(api, action, None)
    if method is not None:
        return method(job_id)
    from openai.types.fine_tuning import FineTuningJob

    return client.post(f"/fine_tuning/jobs/{job_id}/{action}", cast_to=FineTuningJob)


def until(job_id: str, *statuses: str) -> Any:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in statuses:
            return job
        assert job.status not in ("failed", "cancelled", "succeeded"), job
        time.sleep(0.2)
    raise AssertionError(f"{job_id} never was {statuses}")


def training(file: str) -> None:
    api = client.fine_tuning.jobs
    theirs = {"n_epochs": 25, "batch_size": 1}
    extra: Any = {
        "method": {"type": "supervised", "supervised": {"hyperparameters": theirs}},
        "hyperparameters": {"lora_r": 8, "learning_rate": 1e-3, "seq_len": 128},
    }
    job = api.create(
        model="builtin:tiny",
        training_file=file,
        suffix="sums",
        extra_body=extra,
    )
    until(job.id, "running")
    while not any(event.type == "metrics" for event in api.list_events(job.id)):
        until(job.id, "running")
    assert act(job.id, "pause").status in ("pausing", "paused")
    until(job.id, "paused")
    assert act(job.id, "resume").status == "queued"
    done = until(job.id, "succeeded")
    model = done.fine_tuned_model
    assert model.startswith("ft:builtin:tiny:"), done
    assert ":sums:" in model, done
    steps = [event for event in api.list_events(job.id, limit=50) if event.type == "metrics"]
    told = [event.data["step"] for event in steps]
    assert told == list(range(300, 0, -1)), told
    kept = api.checkpoints.list(job.id).data
    assert [item.step_number for item in kept] == [300, 288, 276], kept
    for item in kept:
        name = item.fine_tuned_model_checkpoint
        assert client.models.retrieve(name).id == name
    table = client.files.content(done.result_files[0]).read().decode().splitlines()
    assert table[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert len(table) == 301
    assert model in [item.id for item in client.models.list()]
    assert client.models.delete(model).deleted
    refused(openai.NotFoundError, lambda: client.models.retrieve(model), code="model_not_found")


def main() -> None:
    file = files()
    errors(file)
    jobs(file)
    if os.environ["STEPS"] == "full":
        training(file)
    assert client.files.delete(file).deleted
    sys.stdout.write(f"openai {openai.__version__}: as expected\n")


if __name__ == "__main__":
    main()
