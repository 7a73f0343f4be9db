"""What OpenAI's API has and this server has not, told with what to do instead. Their paths have no route: a
client that calls one has to hear more than that its address is wrong."""

from __future__ import annotations

import re

from tunewright.service.faults import ApiError

ABSENT = {
    r"/v1/uploads(/.*)?": "Uploads in parts are not available; send the whole file to POST /v1/files",
    r"/v1/fine[-_]tuning/checkpoints/.*": "Permissions of checkpoints are not available: every key of "
    "a project may use its models",
    r"/v1/fine[-_]tuning/alpha/graders/.*": "Graders are not available: jobs have the method "
    "'supervised' only",
    r"/v1/responses(/.*)?": "Responses are not available; use POST /v1/chat/completions",
    r"/v1/batches(/.*)?": "Batches are not available; send the calls one by one",
    r"/v1/chat/completions(/.*)?": "Chats are not stored, so that none can be looked up",
}
"""Pattern of the path → the message."""


def absent_call(path: str) -> ApiError | None:
    """404 for a path that only OpenAI has; None for one that means nothing here."""
    message = next((text for pattern, text in ABSENT.items() if re.fullmatch(pattern, path)), None)
    return None if message is None else ApiError(404, f"{message}", code="unsupported_call")


def unknown_call(status: int, method: str, path: str) -> ApiError:
    """404 for a path that nobody has, 405 for one that is asked in the wrong way."""
    hint = "GET /docs shows every call of this server"
    if status == 405:
        return ApiError(405, f"Not allowed to {method} on {path}. {hint}", code="method_not_allowed")
    return ApiError(404, f"Invalid URL ({method} {path}). {hint}", code="unknown_url")
