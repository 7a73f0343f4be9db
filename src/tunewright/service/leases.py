"""What a worker is told about a job that it claimed."""

from __future__ import annotations

from typing import Any

from tunewright.service.context import Service
from tunewright.service.db.artifacts import find_stored_model, newest_state
from tunewright.service.db.database import Connection
from tunewright.service.db.files import find_stored_file
from tunewright.service.extra_config import with_extra
from tunewright.service.jobs import Status, phase_of
from tunewright.service.records import ArtifactRecord, JobRecord
from tunewright.service.run_settings import data_settings, run_settings
from tunewright.service.schemas.hyperparameters import Hyperparameters
from tunewright.service.schemas.lease import InputFile, Lease, StoredFileModel

_KINDS = {".csv": ".csv", ".parquet": ".parquet"}


def build_lease(service: Service, connection: Connection, job: JobRecord) -> Lease:
    """The lease of a job that was just claimed."""
    state = newest_state(connection, job.id)
    adapter = _start(connection, job)
    return Lease(
        job=job.id,
        attempt=job.attempt,
        phase=phase_of(job.status),
        lease_seconds=service.settings.lease_seconds,
        settings=_settings(service, job),
        training=_input(connection, job.training_file),
        validation=_input(connection, job.validation_file) if job.validation_file else None,
        state=_stored(state),
        state_step=state.step if state else 0,
        start_from=_stored(adapter),
    )


def named_hashes(connection: Connection, job: JobRecord) -> set[str]:
    """The hashes of all bytes that the lease of a held job names, whatever the server offers by now."""
    inputs = [file_id for file_id in (job.training_file, job.validation_file) if file_id]
    folders = [newest_state(connection, job.id), _start(connection, job)]
    return {
        *(find_stored_file(connection, file_id).sha256 for file_id in inputs),
        *(file.sha256 for folder in folders if folder is not None for file in folder.files),
    }


def _start(connection: Connection, job: JobRecord) -> ArtifactRecord | None:
    """The model that a job starts from; None for a base model."""
    name: str | None = job.request["start_from"]
    return find_stored_model(connection, job.project, name) if name else None


def _settings(service: Service, job: JobRecord) -> dict[str, Any]:
    model = service.settings.models[job.request["base"]]
    format_: str | None = job.request["format"]
    extra: dict[str, Any] = job.request.get("x_config") or {}
    if job.status is Status.VALIDATING:
        asked = Hyperparameters.model_validate(dict(job.hyperparameters))
        data = {"data": data_settings(asked, format_)}
        only = {name: values for name, values in extra.items() if name in data}
        return {"model": {"name": model}, **with_extra(data, only)}
    rows = int((job.checked or {})["train_rows"])
    settings = run_settings(job.hyperparameters, model=model, seed=job.seed, rows=rows, format=format_)
    return with_extra(settings, extra)


def _input(connection: Connection, file_id: str) -> InputFile:
    file = find_stored_file(connection, file_id)
    ending = f".{file.filename.rpartition('.')[2].lower()}"
    # Rows as JSON are told from an array of rows by their content, so any other name will do.
    kind = _KINDS.get(ending, ".jsonl")
    return InputFile.model_validate({"id": file.id, "kind": kind, "sha256": file.sha256, "bytes": file.bytes})


def _stored(artifact: ArtifactRecord | None) -> list[StoredFileModel] | None:
    if artifact is None:
        return None
    return [StoredFileModel(path=file.path, sha256=file.sha256, bytes=file.bytes) for file in artifact.files]
