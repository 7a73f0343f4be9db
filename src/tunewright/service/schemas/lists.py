"""The page that every list answers with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict


class ApiModel(BaseModel):
    """What the API answers with. The text below a field is its description in the API reference."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ApiObject(ApiModel):
    """An object with an id."""

    id: str
    """Its name in calls and paths."""


Item = TypeVar("Item", bound=ApiObject)


class Page(ApiModel, Generic[Item]):
    """A page of objects. The client asks for the next one with `after` = last_id while has_more is true."""

    object: Literal["list"] = "list"
    data: list[Item]
    """The objects of this page."""
    first_id: str | None
    """Id of the first of them; null on an empty page."""
    last_id: str | None
    """Id of the last of them: `after` of the next page."""
    has_more: bool
    """Whether there is another page."""


class Deleted(ApiObject):
    """What was deleted."""

    object: str
    """What kind it was."""
    deleted: bool = True


def page_of(items: Sequence[Item], has_more: bool) -> Page[Item]:
    """The page of these objects."""
    return Page(
        data=list(items),
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
        has_more=has_more,
    )
