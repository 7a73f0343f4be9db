"""Make a job of a create call: check what it names, settle its seed and the name of its model."""

from __future__ import annotations

import json
import secrets

from tunewright.service.context import Service
from tunewright.service.continuing import continue_from, continue_scale
from tunewright.service.data_folder import take_ready_file
from tunewright.service.db.artifacts import find_model
from tunewright.service.db.database import Connection, clock
from tunewright.service.db.events import NewEvent, add_events
from tunewright.service.db.files import find_file
from tunewright.service.db.jobs import add_job, find_job
from tunewright.service.extra_config import check_extra
from tunewright.service.faults import bad_value
from tunewright.service.ids import JOB, new_id, short_id
from tunewright.service.jobs import Status
from tunewright.service.quotas import check_job_quota
from tunewright.service.records import ArtifactRecord, JobRecord, KeyRecord
from tunewright.service.repeats import Repeat, RepeatedCall
from tunewright.service.run_settings import (
    requested_hyperparameters,
    resolve_hyperparameters,
    run_settings,
    shown_hyperparameters,
)
from tunewright.service.schemas.files import TRAINING
from tunewright.service.schemas.hyperparameters import Hyperparameters
from tunewright.service.schemas.jobs import CreateJob

LARGEST_SEED = 2_147_483_647


def create_job(service: Service, key: KeyRecord, body: CreateJob, repeat: Repeat) -> JobRecord:
    """Store a new job and return it, or the one that this very call made before.

    Raises ApiError: 400 for what the call asks and cannot have, 429 when the project has no room for it.
    """
    asked = _check(service, body)
    call = repeat.of(key, json.dumps(body.model_dump(mode="json"), sort_keys=True))
    if service.settings.data_dir is not None:
        body = _with_ready_files(service, key, body, call)
    with service.database.write() as connection:
        known = _find_made(connection, key, call)
        if known is not None:
            return known
        check_job_quota(connection, key.project, service.settings.limits)
        job_id = new_id(JOB)
        _add(service, connection, key, body, asked, job_id)
        call.remember(connection, job_id)
        job = find_job(connection, key.project, job_id)
    if job is None:
        raise AssertionError("a stored job is found")
    return job


def _with_ready_files(service: Service, key: KeyRecord, body: CreateJob, call: RepeatedCall) -> CreateJob:
    """The call with ids in place of the names of ready files, which may take a while to copy."""
    with service.database.write() as connection:
        if _find_made(connection, key, call) is not None:
            return body
    files = {param: getattr(body, param) for param in ("training_file", "validation_file")}
    taken = {param: take_ready_file(service, key, file) for param, file in files.items()}
    return body.model_copy(update={param: found for param, found in taken.items() if found is not None})


def _find_made(connection: Connection, key: KeyRecord, call: RepeatedCall) -> JobRecord | None:
    made = call.find(connection)
    return find_job(connection, key.project, made) if made else None


def _check(service: Service, body: CreateJob) -> Hyperparameters:
    asked = requested_hyperparameters(body)
    most = service.settings.limits.seq_len
    if asked.seq_len is not None and asked.seq_len > most:
        raise bad_value(f"'seq_len' may be {most} at most", "hyperparameters.seq_len")
    if body.integrations:
        raise bad_value(
            "Integrations are not available on this server; leave them out",
            "integrations",
            "unsupported_value",
        )
    # Rows are not known yet; no setting of x_config is measured against them.
    settings = run_settings(
        resolve_hyperparameters(shown_hyperparameters(asked), service.settings.limits.examples),
        model="builtin:tiny",
        seed=0,
        rows=service.settings.limits.examples,
        format=body.format,
    )
    check_extra(body.x_config, settings)
    return asked


def _add(
    service: Service,
    connection: Connection,
    key: KeyRecord,
    body: CreateJob,
    asked: Hyperparameters,
    job_id: str,
) -> None:
    tuned = _model(service, connection, key, body.model)
    base = tuned.base if tuned else body.model
    extra = body.x_config
    first = find_job(connection, key.project, tuned.job_id) if tuned else None
    if first is not None:
        asked, extra = continue_from(first, asked), continue_scale(first, extra)
    for param in ("training_file", "validation_file"):
        _check_file(service, connection, key, getattr(body, param), param)
    name = f"ft:{base}:{key.project}:{(body.suffix or '').replace(' ', '-')}:{short_id()}"
    seed = secrets.randbelow(LARGEST_SEED) if body.seed is None else body.seed
    add_job(
        connection,
        {
            "id": job_id,
            "project": key.project,
            "created_at": clock(connection),
            "status": Status.VALIDATING.value,
            "model": body.model,
            "training_file": body.training_file,
            "validation_file": body.validation_file,
            "suffix": body.suffix,
            "seed": seed,
            "metadata": body.metadata,
            "request": {
                "base": base,
                "start_from": tuned.name if tuned else None,
                "format": body.format,
                "model_name": name,
                "x_config": extra,
            },
            "hyperparameters": shown_hyperparameters(asked),
        },
    )
    created = [f"Created fine-tuning job: {job_id}", f"Validating training file: {body.training_file}"]
    if body.validation_file:
        created[-1] += f" and validation file: {body.validation_file}"
    add_events(connection, job_id, [NewEvent(text) for text in created])


def _model(service: Service, connection: Connection, key: KeyRecord, name: str) -> ArtifactRecord | None:
    """The fine-tuned model to go on from; None for a base model."""
    if name in service.settings.models:
        return None
    tuned = find_model(connection, key.project, name)
    if tuned is None:
        message = f"The model '{name}' does not exist. GET /v1/models lists those that can be trained"
        raise bad_value(message, "model", "model_not_found")
    if tuned.base not in service.settings.models:
        raise bad_value(f"The base of '{name}' is not offered any more: {tuned.base}", "model")
    return tuned


def _check_file(
    service: Service, connection: Connection, key: KeyRecord, file_id: str | None, param: str
) -> None:
    if file_id is None:
        return
    file = find_file(connection, key.project, file_id)
    if file is None:
        message = f"No such File object: {file_id}. Upload it first"
        if service.settings.data_dir is not None:
            message += ", or name a file that lies in the server's --data-dir"
        raise bad_value(message, param, "file_not_found")
    if file.purpose != TRAINING:
        raise bad_value(f"{file_id} has the purpose '{file.purpose}', not '{TRAINING}'", param)
