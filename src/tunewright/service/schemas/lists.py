"""The page that every list answers with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel


class ApiObject(BaseModel):
    """An object with an id."""

    id: str


Item = TypeVar("Item", bound=ApiObject)


class Page(BaseModel, Generic[Item]):
    """A page of objects. The client asks for the next one with `after` = last_id while has_more is true."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(ApiObject):
    """What was deleted."""

    object: str
    deleted: bool = True


def page_of(items: Sequence[Item], has_more: bool) -> Page[Item]:
    """The page of these objects."""
    return Page(
        data=list(items),
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
        has_more=has_more,
    )
