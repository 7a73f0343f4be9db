"""One call of the public API, for the commands that show jobs in a terminal."""

from __future__ import annotations

from typing import Any

import httpx2

from tunewright.errors import ServiceError

CODES = {401: "service.key-refused", 403: "service.key-refused"}


def api_url(server: str, path: str) -> str:
    """The address of a call. server: with `/v1` behind it, as OpenAI's clients have it, or without."""
    return f"{server.rstrip('/').removesuffix('/v1')}{path}"


def call_api(server: str, key: str, method: str, path: str, missing: str = "service.no-job") -> Any:
    """The answer's JSON. missing: the code of an object that is not there.

    Raises ServiceError: `service.unreachable`, `service.key-refused`, `service.refused`, and `missing`.
    """
    url = api_url(server, path)
    try:
        response = httpx2.request(method, url, headers={"authorization": f"Bearer {key}"}, timeout=60)
        body: Any = response.json()
        # Another program may answer here, with errors of its own form.
        refusal = None if response.status_code < 400 else str(body["error"]["message"])
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise ServiceError(
            "no Tunewright server answers here",
            where=server,
            got=str(error) or type(error).__name__,
            hint="start one with: tunewright serve",
            code="service.unreachable",
        ) from error
    if refusal is None:
        return body
    code = {**CODES, 404: missing}.get(response.status_code, "service.refused")
    raise ServiceError(refusal, where=server, code=code)
