"""The same create call sent twice makes one object.

The official client sends a call again when it saw no answer, and says so in `x-stainless-retry-count`. A
first call is never taken for a repeat, so that two equal calls on purpose make two objects; an
`Idempotency-Key` of the caller's own goes by itself. A call whose caller hung up before it was looked at
makes nothing: its repeat may have been served already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from tunewright.service.db.database import Connection
from tunewright.service.db.replays import find_replay, remember, request_hash
from tunewright.service.faults import ApiError, bad_value
from tunewright.service.records import KeyRecord


@dataclass(frozen=True, slots=True)
class Repeat:
    """What a request says about itself. is_retry: the client sent it before."""

    path: str
    idempotency_key: str | None
    is_retry: bool

    def name(self, key: KeyRecord, *body: str | bytes) -> str:
        """One name for this request of this key; `body` is what makes it the same."""
        if self.idempotency_key is not None:
            return request_hash("key", key.id, self.path, self.idempotency_key)
        return request_hash("body", key.id, self.path, *body)

    def find(self, connection: Connection, name: str) -> str | None:
        """The id of the object that this request made before. Others with the same name wait."""
        found = find_replay(connection, name)
        return found if self.is_retry or self.idempotency_key is not None else None

    def remember(self, connection: Connection, name: str, object_id: str) -> None:
        """Note the object that this request made."""
        remember(connection, name, object_id)


async def check_caller(request: Request) -> None:
    """Raise ApiError 400, which nobody reads, when the caller has hung up. Call it once the body was read: it
    would swallow a part of it."""
    if await request.is_disconnected():
        raise ApiError(400, "The caller hung up", code="client_closed_request")


# Last of the arguments: looking up the key takes the time in which the end of a connection is noticed.
CallerArg = Annotated[None, Depends(check_caller)]


def read_repeat(request: Request) -> Repeat:
    """What the headers say. Raises ApiError 400 for an Idempotency-Key that is too long."""
    given = request.headers.get("idempotency-key")
    if given is not None and len(given) > 255:
        raise bad_value("'Idempotency-Key' may have 255 characters", "Idempotency-Key")
    count = request.headers.get("x-stainless-retry-count", "0")
    is_retry = count.isdecimal() and count.strip("0") != ""
    # Both spellings of the jobs path are one place.
    return Repeat(request.url.path.replace("fine-tuning", "fine_tuning"), given, is_retry)


RepeatArg = Annotated[Repeat, Depends(read_repeat)]
