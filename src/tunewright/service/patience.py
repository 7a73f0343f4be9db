"""ASGI wrapper that gives a body so much time and no more, so that slow senders cannot pile up."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunewright.service.faults import ApiError

FIRST_SECONDS = 4.0
BYTES_PER_SECOND = 4096
SILENT_SECONDS = 30.0


class PatientBodies:
    """A body has FIRST_SECONDS, and a second more for each BYTES_PER_SECOND of it that came. A pause of
    SILENT_SECONDS ends it however much came before."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline = time.monotonic() + FIRST_SECONDS
        is_whole = False

        async def receive_in_time() -> Message:
            nonlocal deadline, is_whole
            if is_whole:
                # What comes next is that the caller hangs up, for which one may wait.
                return await receive()
            now = time.monotonic()
            try:
                async with asyncio.timeout(min(deadline - now, SILENT_SECONDS)):
                    message = await receive()
            except TimeoutError as error:
                raise _too_slow() from error
            is_whole = not message.get("more_body", False)
            deadline += len(message.get("body", b"")) / BYTES_PER_SECOND
            return message

        await self.app(scope, receive_in_time, send)


def _too_slow() -> ApiError:
    # 408 is a status that the official client tries again, which is right after a stalled network.
    return ApiError(
        408,
        "The body of the request came too slowly",
        code="request_timeout",
        headers={"connection": "close"},
    )
