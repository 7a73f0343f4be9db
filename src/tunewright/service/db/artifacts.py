"""Rows of what runs leave behind: states to resume from, checkpoint models and models."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from tunewright.service.db.database import clock
from tunewright.service.db.pages import Page, read_page
from tunewright.service.db.rows import to_artifact
from tunewright.service.db.tables import artifact_files, artifacts
from tunewright.service.records import ArtifactKind, ArtifactRecord


def put_artifact(connection: Connection, artifact: ArtifactRecord) -> None:
    """Store an artifact in place of one of the same job, kind and step. Its blobs must be recorded."""
    connection.execute(
        delete(artifact_files).where(
            artifact_files.c.artifact_id.in_(select(artifacts.c.id).where(*_same(artifact)))
        )
    )
    connection.execute(delete(artifacts).where(*_same(artifact)))
    connection.execute(
        insert(artifacts).values(
            id=artifact.id,
            job_id=artifact.job_id,
            project=artifact.project,
            kind=artifact.kind,
            name=artifact.name,
            base=artifact.base,
            step=artifact.step,
            metrics=dict(artifact.metrics),
            created_at=artifact.created_at,
        )
    )
    rows = [
        {"artifact_id": artifact.id, "path": file.path, "sha256": file.sha256, "bytes": file.bytes}
        for file in artifact.files
    ]
    if rows:
        connection.execute(insert(artifact_files), rows)


def keep_newest(connection: Connection, job_id: str, kind: ArtifactKind, keep: int) -> None:
    """Hide all but the `keep` artifacts of this kind with the highest steps."""
    of_kind = (artifacts.c.job_id == job_id, artifacts.c.kind == kind, artifacts.c.deleted_at.is_(None))
    newest = select(artifacts.c.id).where(*of_kind).order_by(artifacts.c.step.desc()).limit(keep)
    kept = list(connection.execute(newest).scalars())
    connection.execute(
        update(artifacts).where(*of_kind, artifacts.c.id.not_in(kept)).values(deleted_at=clock(connection))
    )


def drop_states(connection: Connection, job_id: str) -> None:
    """Hide the states of a job that is over: nobody can go on from them, and they are the largest it left."""
    keep_newest(connection, job_id, "state", 0)


def newest_state(connection: Connection, job_id: str) -> ArtifactRecord | None:
    """The state with the highest step to resume a job from."""
    where = (artifacts.c.job_id == job_id, artifacts.c.kind == "state", artifacts.c.deleted_at.is_(None))
    query = select(artifacts).where(*where).order_by(artifacts.c.step.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return None if row is None else to_artifact(row, _files(connection, row["id"]))


def list_checkpoints(
    connection: Connection, job_id: str, page: Page
) -> tuple[list[ArtifactRecord], bool] | None:
    """A page of a job's checkpoint models; None for an unknown `after`."""
    where: list[ColumnElement[bool]] = [
        artifacts.c.job_id == job_id,
        artifacts.c.kind == "checkpoint",
        artifacts.c.deleted_at.is_(None),
    ]
    found = read_page(connection, artifacts, where, page)
    return None if found is None else ([to_artifact(row, ()) for row in found[0]], found[1])


def list_models(connection: Connection, project: str) -> list[ArtifactRecord]:
    """The project's fine-tuned models, newest first."""
    where = (*_named(project), artifacts.c.kind == "model")
    rows = connection.execute(select(artifacts).where(*where).order_by(artifacts.c.created_at.desc()))
    return [to_artifact(row, ()) for row in rows.mappings()]


def find_model(connection: Connection, project: str, name: str) -> ArtifactRecord | None:
    """A fine-tuned model or checkpoint model of this project by its name."""
    query = select(artifacts).where(*_named(project), artifacts.c.name == name)
    row = connection.execute(query).mappings().first()
    return None if row is None else to_artifact(row, _files(connection, row["id"]))


def find_stored_model(connection: Connection, project: str, name: str) -> ArtifactRecord:
    """The model that a job starts from, whatever became of it since: a live job keeps it."""
    query = select(artifacts).where(artifacts.c.project == project, artifacts.c.name == name)
    row = connection.execute(query).mappings().one()
    return to_artifact(row, _files(connection, row["id"]))


def delete_artifact(connection: Connection, artifact_id: str) -> None:
    """Hide an artifact; its bytes go with the next collection of unused blobs."""
    connection.execute(
        update(artifacts).where(artifacts.c.id == artifact_id).values(deleted_at=clock(connection))
    )


def _same(artifact: ArtifactRecord) -> Sequence[ColumnElement[bool]]:
    # A job has one model, whatever its step.
    step = () if artifact.kind == "model" else (artifacts.c.step == artifact.step,)
    return (artifacts.c.job_id == artifact.job_id, artifacts.c.kind == artifact.kind, *step)


def _named(project: str) -> Sequence[ColumnElement[bool]]:
    return (
        artifacts.c.project == project,
        artifacts.c.deleted_at.is_(None),
        artifacts.c.name.is_not(None),
    )


def _files(connection: Connection, artifact_id: str):
    query = select(artifact_files).where(artifact_files.c.artifact_id == artifact_id)
    return connection.execute(query.order_by(artifact_files.c.path)).mappings().all()
