"""/v1/models: what can be fine-tuned, and what was."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse

from tunewright.service.context import Service, ServiceArg, UserArg
from tunewright.service.db.artifacts import delete_artifact, find_model, list_models
from tunewright.service.faults import bad_value, no_such_model
from tunewright.service.inference.model_server import ModelServerArg
from tunewright.service.model_archive import ModelArchive
from tunewright.service.records import ArtifactRecord, KeyRecord
from tunewright.service.schemas.lists import Deleted
from tunewright.service.schemas.models import Model, Models

router = APIRouter(prefix="/v1/models", tags=["Models"])

ModelName = Annotated[str, Path(description="Name of the model; it may have `/` and `:` in it.")]


@router.get("")
def list_(service: ServiceArg, key: UserArg) -> Models:
    """Base models and the project's fine-tuned models."""
    with service.database.read() as connection:
        tuned = list_models(connection, key.project)
    return Models(data=[*(_base(name) for name in service.settings.models), *map(_tuned, tuned)])


HASH_HEADER = "x-content-sha256"
ARCHIVE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A tar archive",
        "headers": {HASH_HEADER: {"description": "sha256 of the archive, hex", "schema": {"type": "string"}}},
        "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
    }
}


# Before the model of any name, which would take this for a part of the name.
@router.get("/{name:path}/content", response_class=Response, responses=ARCHIVE)
def content(name: ModelName, service: ServiceArg, key: UserArg) -> StreamingResponse:
    """The files of a fine-tuned model or a checkpoint as a tar archive: an adapter in PEFT's format or whole
    weights, with the tokenizer. The archive of a model has the same bytes each time."""
    _check_not_base(service, name, "downloaded")
    archive = ModelArchive(_found(service, key, name), service.blobs)
    size, sha256 = archive.check()
    headers = {
        "content-length": str(size),
        "content-disposition": f'attachment; filename="{re.sub(r"[^A-Za-z0-9._-]", "-", name)}.tar"',
        HASH_HEADER: sha256,
    }
    return StreamingResponse(archive.chunks(), media_type="application/x-tar", headers=headers)


@router.get("/{name:path}")
def retrieve(name: ModelName, service: ServiceArg, key: UserArg) -> Model:
    """One model; the checkpoint models of jobs have names too."""
    if name in service.settings.models:
        return _base(name)
    return _tuned(_found(service, key, name))


@router.delete("/{name:path}")
def delete(name: ModelName, service: ServiceArg, key: UserArg, models: ModelServerArg) -> Deleted:
    """Delete a fine-tuned model."""
    _check_not_base(service, name, "deleted")
    with service.database.write() as connection:
        found = find_model(connection, key.project, name)
        if found is None:
            raise no_such_model(name)
        delete_artifact(connection, found.id)
    models.forget(found.id)
    return Deleted(id=name, object="model")


def _found(service: Service, key: KeyRecord, name: str) -> ArtifactRecord:
    with service.database.read() as connection:
        found = find_model(connection, key.project, name)
    if found is None:
        raise no_such_model(name)
    return found


def _check_not_base(service: Service, name: str, done: str) -> None:
    if name in service.settings.models:
        raise bad_value(f"'{name}' is a base model; only fine-tuned models can be {done}", "model")


def _base(name: str) -> Model:
    # A base model is as old as the configuration that names it, which has no date.
    return Model(id=name, created=0, owned_by="system")


def _tuned(model: ArtifactRecord) -> Model:
    return Model(id=model.name or "", created=int(model.created_at), owned_by=model.project)
