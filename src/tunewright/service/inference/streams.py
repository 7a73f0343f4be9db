"""Answers on their way to a client: server-sent events, and giving up when the client is gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

from tunewright.service.faults import ApiError

PING_SECONDS = 15.0
Result = TypeVar("Result")
log = logging.getLogger("tunewright.service")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def event_stream(chunks: AsyncIterator[Any], stack: AsyncExitStack) -> StreamingResponse:
    """The answer in chunks. stack: closed at the end, however that comes."""
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(_lines(chunks, stack), media_type="text/event-stream", headers=headers)


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled when the client goes. Raises ClientGone."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        watching.cancel()
        working.cancel()
        for task in (working, watching):
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _lines(chunks: AsyncIterator[Any], stack: AsyncExitStack) -> AsyncIterator[str]:
    async with stack:
        coming: asyncio.Future[Any] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(chunks))
                done, _ = await asyncio.wait({coming}, timeout=PING_SECONDS)
                if not done:
                    # Proxies cut connections on which nothing moves.
                    yield ": ping\n\n"
                    continue
                chunk, coming = coming.result(), None
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
        except StopAsyncIteration:
            yield "data: [DONE]\n\n"
        except ApiError as error:
            # The status was sent long ago; the client raises for a chunk with `error`.
            yield f"data: {json.dumps(error.body())}\n\n"
        finally:
            if coming is not None:
                coming.cancel()
