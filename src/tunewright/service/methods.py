"""ASGI wrappers for calls as people and programs make them: a HEAD for every GET, JSON without its type."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class AnyJson:
    """ASGI wrapper that takes a body for JSON whatever type it is sent as, but for forms of several parts:
    `curl -d` says that it is a form. Keys travel in a header that no foreign page can set, so that the type
    guards nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "http":
            kind = Headers(scope=scope).get("content-type", "")
            if not kind.lower().lstrip().startswith("multipart/"):
                MutableHeaders(scope=scope)["content-type"] = "application/json"
        await self.app(scope, receive, send)


class Heads:
    """ASGI wrapper that answers HEAD as GET of the same address, without the body. A stream ends at once."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        inner = {**scope, "method": "GET"}
        begun = asyncio.Event()

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                # For whoever counts and logs: the router tells the scope that it was given.
                scope.update({name: inner[name] for name in ("route", "path_params") if name in inner})
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                begun.set()

        async def receive_end() -> Message:
            await begun.wait()
            return {"type": "http.disconnect"}

        is_asked = False

        async def receive_nothing() -> Message:
            nonlocal is_asked
            if is_asked:
                return await receive_end()
            is_asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        await self.app(inner, receive_nothing, send_head)
