"""What the API answers when it refuses."""

from __future__ import annotations

from typing import Any

from tunewright.service.schemas.lists import ApiModel


class ErrorBody(ApiModel):
    """Why a call was refused."""

    message: str
    """A sentence for people that says what to do."""
    type: str
    """The kind of refusal, such as `invalid_request_error`."""
    param: str | None
    """The field of the request that is at fault."""
    code: str | None
    """For programs, such as `invalid_value`."""


class ErrorEnvelope(ApiModel):
    """The body of every answer that is no success."""

    error: ErrorBody


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorEnvelope, "description": "The call is refused: it is wrong, or not for this key"},
    "5XX": {"model": ErrorEnvelope, "description": "The server failed, or is not ready yet"},
}
"""For the OpenAPI document."""
