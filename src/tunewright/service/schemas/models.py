"""Models as the API shows them."""

from __future__ import annotations

from typing import Literal

from tunewright.service.schemas.lists import ApiModel, ApiObject


class Model(ApiObject):
    """A base model that the operator offers, or a fine-tuned model of the project."""

    object: Literal["model"] = "model"
    created: int
    """Unix time in seconds; 0 for a base model."""
    owned_by: str
    """`system` for a base model, else the project."""


class Models(ApiModel):
    """All models; this list has no pages."""

    object: Literal["list"] = "list"
    data: list[Model]
    """Base models first."""
