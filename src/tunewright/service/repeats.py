"""The same create call sent twice makes one object.

The official client sends a call again when it saw no answer, and says so in `x-stainless-retry-count`. A
first call is never taken for a repeat, so that two equal calls on purpose make two objects; an
`Idempotency-Key` of the caller's own goes by itself, and one that comes with another body is refused: neither
object would be the right answer. A call whose caller hung up before it was looked at
makes nothing: its repeat may have been served already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from tunewright.service.db.database import Connection
from tunewright.service.db.replays import Replay, find_replay, remember, request_hash
from tunewright.service.faults import ApiError, bad_value
from tunewright.service.records import KeyRecord


@dataclass(frozen=True, slots=True)
class Repeat:
    """What a request says about itself. is_retry: the client sent it before."""

    path: str
    idempotency_key: str | None
    is_retry: bool

    def of(self, key: KeyRecord, *body: str) -> RepeatedCall:
        """This request of this key; `body` is what makes it the same."""
        if self.idempotency_key is None:
            return RepeatedCall(request_hash("body", key.id, self.path, *body), None, self.is_retry)
        name = request_hash("key", key.id, self.path, self.idempotency_key)
        return RepeatedCall(name, request_hash("body", *body), True)


@dataclass(frozen=True, slots=True)
class RepeatedCall:
    """A create call by the name that it has each time it is sent. body_hash: its body, where that is not in
    the name. may_repeat: whether it may have been sent before."""

    name: str
    body_hash: str | None
    may_repeat: bool

    def find(self, connection: Connection) -> str | None:
        """The id of the object that this call made before. Others with the same name wait.

        Raises ApiError 400 when its Idempotency-Key came with another body.
        """
        found = find_replay(connection, self.name)
        if found is None or not self.may_repeat:
            return None
        # None: remembered before bodies were.
        if found.body_hash not in (None, self.body_hash):
            raise bad_value(
                f"This Idempotency-Key came with another body, which made {found.object_id}; "
                "nothing was made of this one. Use a new key for each call",
                "Idempotency-Key",
                "idempotency_key_reused",
            )
        return found.object_id

    def remember(self, connection: Connection, object_id: str) -> None:
        """Note the object that this call made."""
        remember(connection, self.name, Replay(object_id, self.body_hash))


async def check_caller(request: Request) -> None:
    """Raise ApiError 400, which nobody reads, when the caller has hung up. Call it once the body was read: it
    would swallow a part of it."""
    if await request.is_disconnected():
        raise ApiError(400, "The caller hung up", code="client_closed_request")


# Last of the arguments: looking up the key takes the time in which the end of a connection is noticed.
CallerArg = Annotated[None, Depends(check_caller)]


def read_repeat(request: Request) -> Repeat:
    """What the headers say. Raises ApiError 400 for an Idempotency-Key that is none."""
    keys = request.headers.getlist("idempotency-key")
    given = keys[0] if keys else None
    # An empty one would be the same for all calls that forgot it.
    if len(keys) > 1 or (given is not None and not 0 < len(given) <= 255):
        raise bad_value("'Idempotency-Key' must be given once, with 1 to 255 characters", "Idempotency-Key")
    count = request.headers.get("x-stainless-retry-count", "0")
    is_retry = count.isdecimal() and count.strip("0") != ""
    # Both spellings of the jobs path are one place.
    return Repeat(request.url.path.replace("fine-tuning", "fine_tuning"), given, is_retry)


RepeatArg = Annotated[Repeat, Depends(read_repeat)]
