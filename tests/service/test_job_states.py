"""The life of a job: the table by itself, and every user action in every status over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import BadRequestError, OpenAI

from service_server import RunningServer, chat_rows, upload
from service_worker import HandWorker, worker_by_hand
from tunewright.service.jobs import CLAIMABLE, HELD, TERMINAL, TRANSITIONS, Action, Status, next_status
from tunewright.service.schemas.lease import EventModel, Finish, Report

USER = (Action.CANCEL, Action.PAUSE, Action.RESUME)


@given(st.lists(st.sampled_from(Action), max_size=12))
def test_nothing_leaves_the_end_and_everything_can_get_there(actions: list[Action]) -> None:
    status = Status.VALIDATING
    for action in actions:
        following = next_status(status, action)
        if status in TERMINAL:
            assert following in (None, status)
        status = following or status
    assert status in TERMINAL or next_status(status, Action.CANCEL) is Status.CANCELLED


def test_repeats_change_nothing() -> None:
    for (_, action), following in TRANSITIONS.items():
        if action in USER:
            assert next_status(following, action) in (following, None if following in TERMINAL else following)


def test_every_status_is_claimable_held_over_or_paused() -> None:
    assert {*CLAIMABLE, *HELD, *TERMINAL, Status.PAUSED} == set(Status)
    for status in HELD:
        assert next_status(status, Action.STOPPED) not in (None, *HELD)


@pytest.fixture
def client(any_server: RunningServer, project: str) -> Iterator[OpenAI]:
    with any_server.client(project=project, max_retries=0) as found:
        yield found


@pytest.fixture
def worker(any_server: RunningServer, tmp_path: Path) -> Iterator[HandWorker]:
    with worker_by_hand(any_server, tmp_path) as found:
        yield found


@pytest.fixture
def new_job(client: OpenAI) -> Callable[..., Any]:
    def create(**given: Any) -> Any:
        file = upload(client, chat_rows(10))
        return client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file.id, **given)

    return create


def told(client: OpenAI, job_id: str) -> list[str]:
    """Messages of the events, oldest first."""
    return [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)][::-1]


REACHED: dict[Status, Callable[[HandWorker, OpenAI, str], Any]] = {
    Status.VALIDATING: lambda worker, client, job: None,
    Status.QUEUED: lambda worker, client, job: worker.validate(job),
    Status.RUNNING: lambda worker, client, job: worker.begin(job),
    Status.PAUSING: lambda worker, client, job: (
        worker.begin(job),
        client.fine_tuning.jobs.pause(job),
    ),
    Status.PAUSED: lambda worker, client, job: (
        worker.validate(job),
        client.fine_tuning.jobs.pause(job),
    ),
    Status.SUCCEEDED: lambda worker, client, job: worker.succeed(worker.begin(job)),
    Status.FAILED: lambda worker, client, job: worker.validate(job, rows=1),
    Status.CANCELLED: lambda worker, client, job: client.fine_tuning.jobs.cancel(job),
}


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("action", USER)
def test_every_action_in_every_status(
    status: Status,
    action: Action,
    client: OpenAI,
    worker: HandWorker,
    new_job: Callable[..., Any],
) -> None:
    job = new_job()
    REACHED[status](worker, client, job.id)
    before = client.fine_tuning.jobs.retrieve(job.id)
    assert before.status == status
    events = told(client, job.id)
    call = getattr(client.fine_tuning.jobs, action.value)
    expected = next_status(status, action)
    if expected is None:
        with pytest.raises(BadRequestError) as caught:
            call(job.id)
        over = status in TERMINAL
        assert caught.value.code == ("job_already_completed" if over else "invalid_job_state")
        assert not over or "The job has already completed" in caught.value.message
        # It waits for a status from which the action leads somewhere.
        named = [each for each in Status if f"until it is {each}" in caught.value.message]
        assert over or [next_status(each, action) for each in named] not in ([], [None])
    else:
        assert call(job.id).status == expected
    after = client.fine_tuning.jobs.retrieve(job.id)
    if expected in (None, status):
        assert after == before
        assert told(client, job.id) == events
    else:
        assert after.status == expected
        assert len(told(client, job.id)) == len(events) + 1
        assert (after.finished_at is not None) is (expected in TERMINAL)


def test_a_job_from_start_to_end(client: OpenAI, worker: HandWorker, new_job: Callable[..., Any]) -> None:
    job = new_job(suffix="sums")
    lease = worker.begin(job.id, rows=40)
    running = client.fine_tuning.jobs.retrieve(job.id)
    assert running.status == "running"
    assert running.hyperparameters.model_dump() == {
        "n_epochs": 3,
        "batch_size": 1,
        "learning_rate_multiplier": 1.0,
    }
    worker.report(lease, 1, 4, loss=2.5, loss_tokens=10)
    worker.report(lease, 2, 4, loss=2.0, loss_tokens=11)
    worker.save(lease, "checkpoint", 2)
    worker.succeed(lease)
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded"
    assert done.trained_tokens == 21
    assert done.fine_tuned_model
    assert done.fine_tuned_model.startswith(f"ft:builtin:tiny:{job.organization_id}:sums:")
    [checkpoint] = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert checkpoint.fine_tuned_model_checkpoint == f"{done.fine_tuned_model}:ckpt-step-2"
    assert checkpoint.metrics.train_loss == 2.0
    results = [client.files.content(file).text for file in done.result_files]
    assert results[0] == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,2.5,,,\n2,2.0,,,\n"
    )
    assert results[1] == "step,loss,loss_tokens\n1,2.5,10.0\n2,2.0,11.0\n"
    assert told(client, job.id)[2:] == [
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        "Step 1/4",
        "Step 2/4",
        f"New fine-tuned model created: {done.fine_tuned_model}",
        "The job has successfully completed",
    ]


def test_a_running_job_says_when_it_will_be_over(
    client: OpenAI, worker: HandWorker, new_job: Callable[..., Any]
) -> None:
    job = new_job()
    lease = worker.begin(job.id)
    assert client.fine_tuning.jobs.retrieve(job.id).estimated_finish is None
    for step, seconds in ((1, 90.0), (2, 10.0), (3, 10.0)):
        worker.report(lease, step, 103, loss=1.0, step_seconds=seconds)
    expected = time.time() + 100 * 10
    [listed] = client.fine_tuning.jobs.list()
    for found in (client.fine_tuning.jobs.retrieve(job.id), listed):
        assert found.estimated_finish is not None
        assert abs(found.estimated_finish - expected) < 30
    worker.succeed(lease)
    assert client.fine_tuning.jobs.retrieve(job.id).estimated_finish is None


def test_pause_and_resume_go_through_the_worker(
    client: OpenAI, worker: HandWorker, new_job: Callable[..., Any]
) -> None:
    job = new_job()
    lease = worker.begin(job.id)
    assert worker.client.renew(lease).wanted == "run"
    assert client.fine_tuning.jobs.pause(job.id).status == "pausing"
    assert worker.client.renew(lease).wanted == "pause"
    worker.save(lease, "state", 3, {"manifest.json": b"{}"})
    worker.client.finish(lease, Finish(outcome="stopped", exit_code=5, step=3))
    assert client.fine_tuning.jobs.retrieve(job.id).status == "paused"
    assert worker.claim() is None
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    again = worker.claim_job(job.id)
    assert again.state is not None
    assert (again.attempt, again.state_step) == (lease.attempt + 1, 3)
    assert worker.client.renew(again).wanted == "run"
    worker.succeed(again)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"


def test_too_few_rows_fail_with_openais_code(
    client: OpenAI, worker: HandWorker, new_job: Callable[..., Any]
) -> None:
    job = new_job()
    worker.validate(job.id, rows=9)
    failed = client.fine_tuning.jobs.retrieve(job.id)
    assert failed.status == "failed"
    assert failed.error
    assert (failed.error.code, failed.error.param) == ("invalid_training_file", "training_file")
    assert "has 9 examples" in failed.error.message
    assert client.fine_tuning.jobs.list_events(job.id).data[0].level == "error"


def test_rows_that_were_cut_are_told(client: OpenAI, worker: HandWorker, new_job: Callable[..., Any]) -> None:
    job = new_job()
    worker.validate(job.id, rows=10, rows_cut=3)
    events = client.fine_tuning.jobs.list_events(job.id).data
    assert [event.level for event in events[:2]] == ["info", "warn"]
    assert events[1].message.startswith("3 of 10 training examples are longer")


def test_rows_that_were_left_out_are_told(
    client: OpenAI, worker: HandWorker, new_job: Callable[..., Any]
) -> None:
    job = new_job()
    worker.validate(job.id, rows=14, rows_cut=13, rows_dropped=286)
    events = client.fine_tuning.jobs.list_events(job.id).data
    assert [event.level for event in events[:3]] == ["info", "warn", "warn"]
    assert events[1].message == "286 of 300 training examples are too long to learn from and are left out"
    assert events[2].message.startswith("13 of 300 training examples are longer")
    job = new_job()
    worker.validate(job.id, rows=3, rows_dropped=9)
    error = client.fine_tuning.jobs.retrieve(job.id).error
    assert error
    assert "has 3 examples" in error.message
    assert "9 more are too long" in error.message


def test_checkpoints_of_the_last_three_epochs_stay(
    client: OpenAI, worker: HandWorker, new_job: Callable[..., Any]
) -> None:
    job = new_job()
    lease = worker.begin(job.id)
    for step in (1, 2, 3, 4):
        worker.save(lease, "checkpoint", step)
    worker.succeed(lease)
    kept = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=2))
    assert [checkpoint.step_number for checkpoint in kept] == [4, 3, 2]
    for checkpoint in kept:
        assert client.models.retrieve(checkpoint.fine_tuned_model_checkpoint).owned_by == job.organization_id
    model = client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    assert model
    listed = [item.id for item in client.models.list()]
    assert listed == ["builtin:tiny", model]
    follower = client.fine_tuning.jobs.create(
        model=kept[-1].fine_tuned_model_checkpoint, training_file=job.training_file
    )
    start = worker.begin(follower.id)
    assert start.start_from is not None
    assert [file.bytes for file in start.start_from] == [len("checkpoint 2")]


def test_a_job_that_goes_on_has_the_shape_of_the_adapter(
    client: OpenAI, worker: HandWorker, new_job: Callable[..., Any]
) -> None:
    shape = {"lora_r": 8, "lora_alpha": 4.0, "lora_target_modules": ["q_proj"]}
    extra = {"hyperparameters": shape, "x_config": {"adapter": {"rslora": True}}}
    first = new_job(extra_body=extra)
    worker.succeed(worker.begin(first.id))
    model = client.fine_tuning.jobs.retrieve(first.id).fine_tuned_model
    assert model

    def go_on(**given: Any) -> Any:
        return client.fine_tuning.jobs.create(
            model=model, training_file=first.training_file, extra_body=given
        )

    job = go_on(hyperparameters={"lora_dropout": 0.1})
    assert job.model_dump()["hyperparameters"].items() >= {**shape, "lora_dropout": 0.1}.items()
    settings = worker.begin(job.id).settings["adapter"]
    assert (settings["rank"], settings["alpha"], settings["rslora"]) == (8, 4.0, True)
    assert go_on(hyperparameters={"lora_r": 8}).status == "validating_files"
    for place, other, param in (
        ("hyperparameters", {"lora_r": 16}, "lora_r"),
        ("hyperparameters", {"lora_bias": "all"}, "lora_bias"),
        ("hyperparameters", {"use_lora": False}, "use_lora"),
        ("x_config", {"adapter": {"rslora": False}}, "adapter.rslora"),
    ):
        with pytest.raises(BadRequestError, match="as in the job that made the model") as caught:
            go_on(**{place: other})
        assert caught.value.param == f"{place}.{param}"


def test_no_job_goes_on_from_a_model_without_adapter(
    client: OpenAI, worker: HandWorker, new_job: Callable[..., Any]
) -> None:
    first = new_job(extra_body={"hyperparameters": {"use_lora": False}})
    worker.succeed(worker.begin(first.id))
    model = client.fine_tuning.jobs.retrieve(first.id).fine_tuned_model
    assert model
    with pytest.raises(BadRequestError, match="Start from 'builtin:tiny'") as caught:
        client.fine_tuning.jobs.create(model=model, training_file=first.training_file)
    assert (caught.value.param, caught.value.code) == ("model", "unsupported_value")


def test_models_are_deleted_one_by_one(
    client: OpenAI, worker: HandWorker, new_job: Callable[..., Any]
) -> None:
    job = new_job()
    worker.succeed(worker.begin(job.id))
    model = client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    assert model
    gone = client.models.delete(model)
    assert (gone.id, gone.object, gone.deleted) == (model, "model", True)
    assert [item.id for item in client.models.list()] == ["builtin:tiny"]
    with pytest.raises(BadRequestError, match="base model"):
        client.models.delete("builtin:tiny")


def test_a_report_with_a_nul_is_taken_on_either_database(any_server: RunningServer, tmp_path: Path) -> None:
    """PostgreSQL stores none, and a worker would send what is refused for ever."""
    with any_server.client() as client, worker_by_hand(any_server, tmp_path) as worker:
        job = client.fine_tuning.jobs.create(
            model="builtin:tiny", training_file=upload(client, chat_rows(11)).id
        ).id
        lease = worker.begin(job)
        worker.client.report(lease, Report(events=[EventModel(message="a\0b", level="warn")]))
        worker.client.finish(lease, Finish(outcome="failed", exit_code=3, code="x", message="row \0"))
        failed = client.fine_tuning.jobs.retrieve(job)
        assert failed.error
        assert failed.error.message == "row \ufffd"
