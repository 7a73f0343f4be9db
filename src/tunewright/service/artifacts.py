"""Folders that workers hand over: whether their bytes are there, and what they are called."""

from __future__ import annotations

from tunewright.service.context import Service
from tunewright.service.db.blobs import known_blobs
from tunewright.service.db.database import Connection, clock
from tunewright.service.db.events import read_step
from tunewright.service.faults import ApiError
from tunewright.service.ids import CHECKPOINT, new_id
from tunewright.service.records import ArtifactRecord, JobRecord, StoredFile
from tunewright.service.schemas.lease import NewArtifact
from tunewright.service.wording import checkpoint_metrics


def check_stored(service: Service, connection: Connection, body: NewArtifact) -> None:
    """Raise ApiError 400 when bytes of the folder are missing."""
    wanted = {file.sha256 for file in body.files}
    missing = wanted - known_blobs(connection, wanted)
    missing |= {sha256 for sha256 in wanted if not service.blobs.has(sha256)}
    if missing:
        raise ApiError(400, f"{len(missing)} of {len(wanted)} files were not stored", code="missing_blobs")


def new_artifact(connection: Connection, job: JobRecord, body: NewArtifact) -> ArtifactRecord:
    """The artifact of a folder, with its model name and the figures of its step."""
    name: str = job.request["model_name"]
    names = {"state": None, "checkpoint": f"{name}:ckpt-step-{body.step}", "model": name}
    return ArtifactRecord(
        id=new_id(CHECKPOINT),
        job_id=job.id,
        project=job.project,
        kind=body.kind,
        name=names[body.kind],
        base=job.request["base"],
        step=body.step,
        metrics=checkpoint_metrics(body.step, read_step(connection, job.id, body.step)),
        created_at=clock(connection),
        files=tuple(StoredFile(file.path, file.sha256, file.bytes) for file in body.files),
    )
