"""GET /docs: the API to read and try in a browser. The page comes whole from here: people type keys into it,
so nobody else's script may run in it, and a server without the internet has it too."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

PAGE = Path(__file__).parent.parent / "reference.html"
# What the page may do: its own script and style, calls to this server, nothing else.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

router = APIRouter()


@router.get("/docs", include_in_schema=False)
def reference() -> HTMLResponse:
    """The page, which reads /openapi.json. Needs no key."""
    return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=HEADERS)
