"""/v1/models: what can be fine-tuned, and what was."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from tunewright.service.context import Service, ServiceArg, UserArg
from tunewright.service.db.artifacts import delete_artifact, find_model, list_models
from tunewright.service.faults import bad_value, no_such_model
from tunewright.service.inference.model_server import ModelServerArg
from tunewright.service.records import ArtifactRecord
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


@router.get("/{name:path}")
def retrieve(name: ModelName, service: ServiceArg, key: UserArg) -> Model:
    """One model; the checkpoint models of jobs have names too."""
    if name in service.settings.models:
        return _base(name)
    with service.database.read() as connection:
        found = find_model(connection, key.project, name)
    if found is None:
        raise no_such_model(name)
    return _tuned(found)


@router.delete("/{name:path}")
def delete(name: ModelName, service: ServiceArg, key: UserArg, models: ModelServerArg) -> Deleted:
    """Delete a fine-tuned model."""
    _check_not_base(service, name)
    with service.database.write() as connection:
        found = find_model(connection, key.project, name)
        if found is None:
            raise no_such_model(name)
        delete_artifact(connection, found.id)
    models.forget(found.id)
    return Deleted(id=name, object="model")


def _check_not_base(service: Service, name: str) -> None:
    if name in service.settings.models:
        raise bad_value(f"'{name}' is a base model; only fine-tuned models can be deleted", "model")


def _base(name: str) -> Model:
    # A base model is as old as the configuration that names it, which has no date.
    return Model(id=name, created=0, owned_by="system")


def _tuned(model: ArtifactRecord) -> Model:
    return Model(id=model.name or "", created=int(model.created_at), owned_by=model.project)
