"""From questions to the HTTP answer, whole or as a stream, given up when the client goes; for chats and
completions alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from tunewright.service.inference.model_server import ModelServer
from tunewright.service.inference.streams import ClientGone, event_stream, while_connected

CLIENT_GONE = 499
"""What proxies write down for a client that did not wait. Nobody reads it."""

Json = dict[str, Any]


class Form(Protocol):
    """What the answer looks like; made from the events of the model server."""

    @property
    def model(self) -> str: ...
    def whole(self, events: AsyncIterator[Json]) -> Coroutine[Any, Any, Json]: ...
    def chunks(self, events: AsyncIterator[Json]) -> AsyncIterator[Json]: ...


async def reply(
    request: Request,
    models: ModelServer,
    asks: Sequence[Mapping[str, Any]],
    *,
    form: Form,
    prompt_param: str,
    stream: bool,
) -> Response:
    """Ask the model server and answer. prompt_param: the field of the request that a prompt at fault stands
    in. Raises ApiError as asking.answering does."""
    stack = AsyncExitStack()
    try:
        asking = models.answering(asks, model=form.model, prompt_param=prompt_param)
        conversation = await while_connected(request, stack.enter_async_context(asking))
        events = conversation.events(prompt_param)
        if stream:
            return event_stream(form.chunks(events), stack.pop_all())
        return JSONResponse(await while_connected(request, form.whole(events)))
    except ClientGone:
        return Response(status_code=CLIENT_GONE)
    finally:
        await stack.aclose()
