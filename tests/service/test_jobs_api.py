"""Creating and listing jobs through the official client, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI

from service_server import RunningServer, chat_rows, upload


@pytest.fixture
def client(any_server: RunningServer, project: str) -> Iterator[OpenAI]:
    with any_server.client(project=project, max_retries=0) as found:
        yield found


@pytest.fixture
def file(client: OpenAI) -> str:
    return upload(client, chat_rows(10)).id


def create(client: OpenAI, file: str, **given: Any) -> Any:
    return client.fine_tuning.jobs.create(**{"model": "builtin:tiny", "training_file": file, **given})


def test_a_new_job_shows_every_field(client: OpenAI, file: str, project: str) -> None:
    job = create(client, file)
    assert job.id.startswith("ftjob-")
    shown = job.model_dump()
    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert isinstance(shown.pop("created_at"), int)
    assert 0 <= shown.pop("seed") < 2**31
    assert shown == {
        "id": job.id,
        "object": "fine_tuning.job",
        "model": "builtin:tiny",
        "status": "validating_files",
        "training_file": file,
        "validation_file": None,
        "finished_at": None,
        "estimated_finish": None,
        "fine_tuned_model": None,
        "organization_id": project,
        "result_files": [],
        "trained_tokens": None,
        "hyperparameters": auto,
        "method": {"type": "supervised", "supervised": {"hyperparameters": auto}, "dpo": None}
        | {"reinforcement": None},
        "metadata": None,
        "integrations": [],
        "error": None,
        "user_provided_suffix": None,
        "x_config": None,
        "format": None,
    }
    assert client.fine_tuning.jobs.retrieve(job.id) == job


def test_null_stands_for_what_is_left_out(client: OpenAI, file: str) -> None:
    nothing = {"suffix": None, "seed": None, "metadata": None, "integrations": None, "validation_file": None}
    extra = {"format": None, "hyperparameters": None, "method": None}
    job = create(client, file, **nothing, extra_body=extra)
    assert job.metadata is None
    job = create(client, file, method={"type": "supervised", "supervised": None})
    assert job.hyperparameters.n_epochs == "auto"
    inner = {"n_epochs": None, "batch_size": None, "learning_rate_multiplier": None}
    job = create(client, file, method={"type": "supervised", "supervised": {"hyperparameters": inner}})
    assert job.hyperparameters.batch_size == "auto"


def test_hyperparameters_of_both_places_come_together(client: OpenAI, file: str) -> None:
    job = create(
        client,
        file,
        seed=5,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        extra_body={"hyperparameters": {"n_epochs": 2, "lora_r": 8}},
    )
    shown = job.model_dump()
    assert shown["hyperparameters"]["n_epochs"] == 2
    assert shown["hyperparameters"]["lora_r"] == 8
    assert shown["method"]["supervised"]["hyperparameters"] == shown["hyperparameters"]
    assert job.seed == 5


LONG = "x" * 65
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"method": {"type": "dpo", "dpo": {}}}, "method.type", "unsupported_method"),
    ({"method": {"type": "reinforcement"}}, "method.type", "unsupported_method"),
    ({"method": {"type": "supervised", "dpo": {}}}, "method.dpo", "invalid_value"),
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "invalid_value"),
    ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs", "invalid_value"),
    ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs", "invalid_value"),
    ({"hyperparameters": {"n_epochs": 1.5}}, "hyperparameters.n_epochs", "invalid_value"),
    ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size", "invalid_value"),
    (
        {"hyperparameters": {"learning_rate_multiplier": 0}},
        "hyperparameters.learning_rate_multiplier",
        "invalid_value",
    ),
    ({"extra_body": {"hyperparameters": {"lora_rnk": 8}}}, "hyperparameters.lora_rnk", "unknown_parameter"),
    ({"extra_body": {"hyperparameters": {"lora_r": 0}}}, "hyperparameters.lora_r", "invalid_value"),
    (
        {"extra_body": {"hyperparameters": {"use_lora": False, "lora_r": 8}}},
        "hyperparameters.lora_r",
        "invalid_value",
    ),
    *(
        (
            {"extra_body": {"hyperparameters": {"lora_target_modules": names}}},
            "hyperparameters.lora_target_modules",
            "invalid_value",
        )
        for names in ([], ["a/b"], [3], 3, "x" * 65, ["a"] * 65)
    ),
    ({"extra_body": {"n_epochs": 3}}, "n_epochs", "unknown_parameter"),
    ({"extra_body": {"status": "succeeded"}}, "status", "unknown_parameter"),
    ({"extra_body": {"format": "dpo"}}, "format", "invalid_value"),
    ({"suffix": LONG}, "suffix", "invalid_value"),
    ({"suffix": ""}, "suffix", "invalid_value"),
    ({"suffix": "../x"}, "suffix", "invalid_value"),
    ({"seed": -1}, "seed", "invalid_value"),
    ({"seed": 2**31}, "seed", "invalid_value"),
    ({"metadata": {str(number): "x" for number in range(17)}}, "metadata", "invalid_value"),
    ({"metadata": {"key": "x" * 513}}, "metadata.key", "invalid_value"),
    ({"metadata": {LONG: "x"}}, f"metadata.{LONG}", "invalid_value"),
    (
        {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]},
        "integrations",
        "unsupported_value",
    ),
    ({"training_file": "file-none"}, "training_file", "file_not_found"),
    ({"validation_file": "file-none"}, "validation_file", "file_not_found"),
    (
        {
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
            "hyperparameters": {"n_epochs": 3},
        },
        "hyperparameters.n_epochs",
        "conflicting_values",
    ),
    (
        {"extra_body": {"hyperparameters": {"learning_rate": 1e-4, "learning_rate_multiplier": 2}}},
        "hyperparameters.learning_rate",
        "invalid_value",
    ),
    (
        {"extra_body": {"hyperparameters": {"use_lora": False, "use_qlora": True}}},
        "hyperparameters.use_qlora",
        "invalid_value",
    ),
]


@pytest.mark.parametrize(("given", "param", "code"), REFUSED, ids=lambda value: str(value)[:60])
def test_refused(given: dict[str, Any], param: str, code: str, client: OpenAI, file: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        create(client, file, **given)
    error = caught.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert error.request_id
    assert not client.fine_tuning.jobs.list().data


def test_the_edges_of_every_range_are_inside(client: OpenAI, file: str) -> None:
    for n_epochs, batch_size in ((1, 1), (50, 256)):
        job = create(client, file, hyperparameters={"n_epochs": n_epochs, "batch_size": batch_size})
        assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (n_epochs, batch_size)
    metadata = {f"{number:064}": "x" * 512 for number in range(16)}
    job = create(client, file, seed=2**31 - 1, suffix="s" * 64, metadata=metadata)
    assert (job.seed, job.metadata) == (2**31 - 1, metadata)
    assert create(client, file, seed=0).seed == 0


def test_an_unknown_base_model_is_refused(client: OpenAI, file: str) -> None:
    with pytest.raises(BadRequestError, match="GET /v1/models") as caught:
        create(client, file, model="gpt-9")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_file_for_something_else_is_refused(client: OpenAI) -> None:
    other = client.files.create(file=b"{}\n", purpose="batch")
    with pytest.raises(BadRequestError, match="has the purpose 'batch'"):
        create(client, other.id)


def test_a_file_of_a_live_job_stays(client: OpenAI, file: str) -> None:
    job = create(client, file)
    with pytest.raises(BadRequestError) as caught:
        client.files.delete(file)
    assert caught.value.code == "file_in_use"
    client.fine_tuning.jobs.cancel(job.id)
    assert client.files.delete(file).deleted


def test_pages_stay_whole_while_jobs_arrive(client: OpenAI, file: str) -> None:
    first = [create(client, file).id for _ in range(5)]
    seen: list[str] = []
    for job in client.fine_tuning.jobs.list(limit=2):
        seen.append(job.id)
        create(client, file)
    assert seen == first[::-1]


def test_after_an_unknown_id_is_refused(client: OpenAI, file: str) -> None:
    job = create(client, file)
    for call in (
        lambda: client.fine_tuning.jobs.list(after="ftjob-none"),
        lambda: client.fine_tuning.jobs.list_events(job.id, after="ftevent-none"),
        lambda: client.fine_tuning.jobs.checkpoints.list(job.id, after="ftckpt_none"),
    ):
        with pytest.raises(BadRequestError) as caught:
            call()
        assert caught.value.param == "after"


@pytest.mark.parametrize("limit", [0, 101])
def test_limit_outside_its_range_is_refused(limit: int, client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.fine_tuning.jobs.list(limit=limit)
    assert caught.value.param == "limit"


def test_jobs_by_metadata(client: OpenAI, file: str) -> None:
    keys = {"team": "a", "empty": "", 'a"b.c[0]$': "x", "\u00e9 '%_": "\u00df"}
    plain = create(client, file)
    marked = create(client, file, metadata=keys)

    def found(**filters: Any) -> list[str]:
        return [job.id for job in client.fine_tuning.jobs.list(**filters)]

    for key, value in keys.items():
        assert found(metadata={key: value}) == [marked.id], key
        assert found(metadata={key: value + "!"}) == []
    assert found(metadata=keys) == [marked.id]
    assert found(metadata={"team": "a", "empty": "x"}) == []
    # No job has such a key: all jobs would be the wrong answer.
    assert found(metadata={"k" * 65: "a"}) == []
    assert found(metadata={"te\nam": "a"}) == []
    assert found(extra_query={"metadata": "null"}) == [plain.id]
    with pytest.raises(BadRequestError) as caught:
        found(extra_query={"metadata": "team"})
    assert caught.value.param == "metadata"
    assert found() == [marked.id, plain.id]


def test_first_events_are_openais(client: OpenAI, file: str) -> None:
    job = create(client, file)
    told = client.fine_tuning.jobs.list_events(job.id).data
    assert [event.message for event in told[::-1]] == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {file}",
    ]
    assert {(event.level, event.type, event.object) for event in told} == {
        ("info", "message", "fine_tuning.job.event")
    }


def test_the_other_spelling_of_the_path(any_server: RunningServer, client: OpenAI, file: str) -> None:
    job = create(client, file)
    found = client.get(f"/fine-tuning/jobs/{job.id}", cast_to=dict)
    assert found["id"] == job.id
    made = client.post(
        "/fine-tuning/jobs", cast_to=dict, body={"model": "builtin:tiny", "training_file": file}
    )
    assert client.fine_tuning.jobs.retrieve(made["id"]).status == "validating_files"


@pytest.mark.parametrize("job_id", ["ftjob-none", "a/b", "a%b", "\u00e9"])
def test_an_unknown_id_is_not_found(job_id: str, client: OpenAI) -> None:
    jobs = client.fine_tuning.jobs
    for call in (
        jobs.retrieve,
        jobs.cancel,
        jobs.pause,
        jobs.resume,
        jobs.list_events,
        jobs.checkpoints.list,
    ):
        with pytest.raises(NotFoundError) as caught:
            call(job_id)
        assert caught.value.request_id


def test_another_projects_objects_are_as_missing_ones(
    any_server: RunningServer, client: OpenAI, file: str
) -> None:
    job = create(client, file)
    with any_server.client(project="stranger", max_retries=0) as stranger:
        for call, missing in (
            (lambda: stranger.fine_tuning.jobs.retrieve(job.id), job.id),
            (lambda: stranger.files.retrieve(file), file),
        ):
            with pytest.raises(NotFoundError) as caught:
                call()
            assert missing in caught.value.message
        with pytest.raises(BadRequestError) as refused:
            create(stranger, file)
        assert refused.value.code == "file_not_found"
        assert not stranger.fine_tuning.jobs.list().data


def test_a_nul_is_refused_wherever_it_stands(client: OpenAI, file: str) -> None:
    for given in ({"metadata": {"a": "\0"}}, {"model": "\0"}, {"training_file": "\0"}):
        with pytest.raises(BadRequestError, match="NUL"):
            create(client, file, **given)
    create(client, file, metadata={"a": "\\u0000"})
    for call in (
        lambda: client.files.list(after="\0"),
        lambda: client.fine_tuning.jobs.list(metadata={"a": "\0"}),
        lambda: client.fine_tuning.jobs.retrieve("\0"),
        lambda: client.models.retrieve("a\0"),
    ):
        with pytest.raises(BadRequestError, match="NUL"):
            call()


def test_half_a_character_is_refused(client: OpenAI, file: str) -> None:
    body = '{"model": "builtin:tiny", "training_file": "FILE", "metadata": {"a": "\\ud800"}}'
    with pytest.raises(BadRequestError) as caught:
        client.post(
            "/fine_tuning/jobs",
            cast_to=dict,
            content=body.replace("FILE", file).encode(),
            options={"headers": {"content-type": "application/json"}},
        )
    assert caught.value.param == "metadata.a"


def test_a_body_above_its_limit_is_refused(client: OpenAI, file: str) -> None:
    with pytest.raises(APIStatusError) as caught:
        create(client, file, metadata={"a": "x" * 2**20})
    assert (caught.value.status_code, caught.value.type) == (413, "invalid_request_error")
    assert "the limit is 1,048,576 bytes" in caught.value.message


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"model": NaN}', b"{", b"\xff", b"null", b"[]", b""])
def test_a_body_that_is_no_object_is_refused(body: bytes, client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.post(
            "/fine_tuning/jobs",
            cast_to=dict,
            content=body,
            options={"headers": {"content-type": "application/json"}},
        )
    assert caught.value.code in ("invalid_json", "invalid_value")
    assert "JSON" in caught.value.message or caught.value.param == "model"
    assert "None" not in caught.value.message
