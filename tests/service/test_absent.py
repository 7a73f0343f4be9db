"""What OpenAI has and this server has not: each call says so, and what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openai import APIStatusError, NotFoundError, OpenAI

GRADER: Any = {"type": "string_check", "name": "a", "input": "a", "reference": "b", "operation": "eq"}
MODEL = "ft:builtin:tiny:own::xxxxxxxx"
CALLS: dict[str, tuple[Callable[[OpenAI], Any], str]] = {
    "uploads": (
        lambda client: client.uploads.create(
            bytes=3, filename="a", mime_type="text/jsonl", purpose="fine-tune"
        ),
        "POST /v1/files",
    ),
    "parts": (lambda client: client.uploads.parts.create("upload_1", data=b"x"), "POST /v1/files"),
    "permissions": (
        lambda client: client.fine_tuning.checkpoints.permissions.create(MODEL, project_ids=["a"]),
        "every key of a project",
    ),
    "permission": (
        lambda client: client.fine_tuning.checkpoints.permissions.delete(
            "cp_1", fine_tuned_model_checkpoint="a/b:c"
        ),
        "every key of a project",
    ),
    "graders": (
        lambda client: client.fine_tuning.alpha.graders.run(grader=GRADER, model_sample="x"),
        "supervised",
    ),
    "graders by the other spelling": (
        lambda client: client.post("/fine-tuning/alpha/graders/validate", cast_to=dict, body={}),
        "supervised",
    ),
    "responses": (lambda client: client.responses.create(model="builtin:tiny", input="x"), "/v1/chat"),
    "batches": (lambda client: client.batches.list(), "one by one"),
    "stored chats": (lambda client: client.chat.completions.list(), "not stored"),
    "a stored chat": (lambda client: client.chat.completions.retrieve("chatcmpl-1"), "not stored"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_openais_alone_says_what_to_do(name: str, client: OpenAI) -> None:
    call, hint = CALLS[name]
    with pytest.raises(NotFoundError) as caught:
        call(client)
    assert (caught.value.code, caught.value.type) == ("unsupported_call", "invalid_request_error")
    assert hint in caught.value.message
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/unheard", 404, "unknown_url"),
        ("PUT", "/files", 405, "method_not_allowed"),
        ("DELETE", "/fine_tuning/jobs/ftjob-1", 405, "method_not_allowed"),
    ],
)
def test_a_path_or_method_that_nobody_has(
    method: str, path: str, status: int, code: str, client: OpenAI
) -> None:
    with pytest.raises(APIStatusError, match="GET /docs") as caught:
        {"GET": client.get, "PUT": client.put, "DELETE": client.delete}[method](path, cast_to=dict)
    assert (caught.value.status_code, caught.value.code) == (status, code)
