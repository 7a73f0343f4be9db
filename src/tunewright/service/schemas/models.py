"""Models as the API shows them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from tunewright.service.schemas.lists import ApiObject


class Model(ApiObject):
    """A base model that the operator offers, or a fine-tuned model of the project."""

    object: Literal["model"] = "model"
    created: int
    owned_by: str


class Models(BaseModel):
    """All models; this list has no pages."""

    object: Literal["list"] = "list"
    data: list[Model]
