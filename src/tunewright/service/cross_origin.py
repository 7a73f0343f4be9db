"""Pages of other origins that may call the API from a browser (CORS): none unless the operator names them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

ANY_ORIGIN = "*"
METHODS = ("GET", "HEAD", "POST", "DELETE")
EXPOSED = (
    "x-request-id",
    "openai-processing-ms",
    "retry-after",
    "x-should-retry",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
)
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")


def is_origin(text: str) -> bool:
    """Whether this is what a browser sends as an origin: scheme, host and port, with nothing after them."""
    return text == ANY_ORIGIN or _ORIGIN.fullmatch(text) is not None


def cross_origin(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application, for pages of these origins too. No cookies: a key is in a header."""
    return CORSMiddleware(
        app,
        allow_origins=tuple(origins),
        allow_methods=METHODS,
        # Those of the official client are many and change.
        allow_headers=("*",),
        allow_credentials=False,
        expose_headers=EXPOSED,
        max_age=600,
    )
