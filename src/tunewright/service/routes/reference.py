"""GET / and /docs: what runs here, and the API to read and try in a browser. The pages come whole from here:
people type keys into one, so no script of others may run in it, and a server offline has them too."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from tunewright import __version__

WELCOME = Path(__file__).parent.parent / "welcome.html"
PAGE = Path(__file__).parent.parent / "reference.html"
# What the page may do: its own script and style, calls to this server, nothing else.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

router = APIRouter()


@router.get("/", include_in_schema=False)
def welcome(request: Request) -> HTMLResponse:
    """A page for whoever opens the address in a browser. Needs no key, tells no secrets, has no script."""
    url = escape(str(request.base_url).rstrip("/"))
    page = Template(WELCOME.read_text(encoding="utf-8")).substitute(version=__version__, url=url)
    return HTMLResponse(page, headers=HEADERS)


@router.get("/docs", include_in_schema=False)
def reference() -> HTMLResponse:
    """The page, which reads /openapi.json. Needs no key."""
    return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=HEADERS)
