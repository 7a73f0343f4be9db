"""Fine-tuning jobs: what a create call may say, and the objects that the API answers with."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tunewright.service.records import ArtifactRecord, EventRecord, JobRecord
from tunewright.service.schemas.hyperparameters import Hyperparameters
from tunewright.service.schemas.lists import ApiModel, ApiObject

Format = Literal["auto", "alpaca", "sharegpt", "messages", "prompt_completion", "text"]
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


SUFFIX = r"^[A-Za-z0-9._ -]{1,64}$"


def _check_suffix(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(SUFFIX, value):
        raise ValueError("expected 1 to 64 letters, digits, dots, spaces, '-' or '_'")
    return value


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Supervised(_Request):
    """Settings of supervised fine-tuning."""

    hyperparameters: Hyperparameters | None = None
    """What is left out is `auto`."""


class Method(_Request):
    """How the model learns. Only `supervised` is there."""

    type: str
    """`supervised`."""
    supervised: Supervised | None = None
    """Its settings."""
    dpo: Any = None
    """Not there yet: anything but null is refused."""
    reinforcement: Any = None
    """Not there yet: anything but null is refused."""


class CreateJob(_Request):
    """The body of a create call. `hyperparameters` and `format` beside `method` come by `extra_body`."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    """A model of GET /v1/models."""
    training_file: Annotated[str, Field(min_length=1, max_length=255)]
    """Id of a file with purpose fine-tune, or the name of one in the server's `--data-dir`."""
    validation_file: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """Id of a file that the model is evaluated on."""
    method: Method | None = None
    """How to train; supervised if left out."""
    hyperparameters: Hyperparameters | None = None
    """The same as in `method`; a setting that stands in both must have one value."""
    suffix: Annotated[str, Field(pattern=SUFFIX), BeforeValidator(_check_suffix)] | None = None
    """Part of the name of the fine-tuned model."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = None
    """The same seed and settings give the same model. Made up if left out."""
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    """Up to 16 texts to find the job by."""
    integrations: list[Any] | None = None
    """Not there yet: anything but an empty list is refused."""
    format: Format | None = None
    """Row format of the files; found from their first rows if left out."""
    x_config: dict[str, Any] | None = None
    """Further settings of the run file, such as `{"train": {"schedule": "constant"}}`. No paths."""

    @model_validator(mode="before")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        # PostgreSQL stores no NUL. JSON writes it in one way only.
        if "\\u0000" in json.dumps(value, default=str).replace("\\\\", ""):
            raise ValueError("a text has a NUL character in it")
        return value


class JobError(ApiModel):
    """Why a job failed."""

    code: str
    """For programs, such as `invalid_training_file`."""
    message: str
    """For people."""
    param: str | None
    """The field of the create call that is at fault."""


class Job(ApiObject):
    """A fine-tuning job."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    """Unix time in seconds."""
    finished_at: int | None
    """When it was over; null before."""
    estimated_finish: int | None
    """When a running job will be over at its present pace; null in any other status."""
    model: str
    """The model that is trained."""
    fine_tuned_model: str | None
    """Name of the result, for chat and for further jobs; null until the job succeeded."""
    organization_id: str
    """The project of the key that made it."""
    status: str
    """`validating_files`, `queued`, `running`, `pausing`, `paused`, `succeeded`, `failed` or `cancelled`."""
    training_file: str
    """Id of the file that is trained on."""
    validation_file: str | None
    """Id of the file that the model is evaluated on."""
    result_files: list[str]
    """Ids of two CSV files of figures by step: OpenAI's five columns, and all. Empty until it succeeded."""
    trained_tokens: int | None
    """Tokens that counted in the loss, of all steps; null until the job succeeded."""
    hyperparameters: dict[str, Any]
    """As asked; every `auto` has its value once the files are validated."""
    method: dict[str, Any]
    """The same as `hyperparameters`, in the form of the create call."""
    seed: int
    """As asked, or the one that was made up."""
    metadata: dict[str, str] | None
    """As given."""
    integrations: list[Any]
    """Empty."""
    error: JobError | None
    """Why it failed; null unless it did."""
    user_provided_suffix: str | None
    """`suffix` of the create call."""
    format: str | None
    """Row format of the files, as given or found; null until it is found."""
    x_config: dict[str, Any] | None
    """As given."""


class Event(ApiObject):
    """Something that happened to a job."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    """Unix time in seconds."""
    level: str
    """`info`, `warn` or `error`."""
    message: str
    """A sentence for people, in OpenAI's words where OpenAI has any."""
    type: str
    """`message`, or `metrics` for the figures of a step."""
    data: dict[str, Any]
    """Figures of a `metrics` event, as the table of events says; empty for most others."""


class Checkpoint(ApiObject):
    """A model saved on the way, usable by its name."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    """Unix time in seconds."""
    fine_tuned_model_checkpoint: str
    """The name to chat with it, and to go on from it in another job."""
    fine_tuning_job_id: str
    """Its job."""
    step_number: int
    """Optimizer steps that were done."""
    metrics: dict[str, float]
    """Figures at that step."""


def job_object(job: JobRecord, estimated_finish: int | None = None) -> Job:
    """The API object of a job."""
    hyperparameters = dict(job.hyperparameters)
    return Job(
        id=job.id,
        created_at=int(job.created_at),
        finished_at=None if job.finished_at is None else int(job.finished_at),
        estimated_finish=estimated_finish,
        model=job.model,
        fine_tuned_model=job.fine_tuned_model,
        organization_id=job.project,
        status=job.status.value,
        training_file=job.training_file,
        validation_file=job.validation_file,
        result_files=list(job.result_files),
        trained_tokens=job.trained_tokens,
        hyperparameters=hyperparameters,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        seed=job.seed,
        metadata=None if job.metadata is None else dict(job.metadata),
        integrations=[],
        error=None if job.error is None else JobError(**job.error),
        user_provided_suffix=job.suffix,
        format=job.request.get("format") or (job.checked or {}).get("format"),
        x_config=job.request.get("x_config"),
    )


def event_object(event: EventRecord) -> Event:
    """The API object of an event."""
    return Event(
        id=event.id,
        created_at=int(event.created_at),
        level=event.level,
        message=event.message,
        type=event.type,
        data=dict(event.data or {}),
    )


def checkpoint_object(checkpoint: ArtifactRecord) -> Checkpoint:
    """The API object of a checkpoint model."""
    return Checkpoint(
        id=checkpoint.id,
        created_at=int(checkpoint.created_at),
        fine_tuned_model_checkpoint=checkpoint.name or "",
        fine_tuning_job_id=checkpoint.job_id,
        step_number=checkpoint.step,
        metrics=dict(checkpoint.metrics),
    )
