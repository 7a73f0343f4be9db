"""Ask the model server and hear its events, with the refusals that a client can act on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from anyio import to_thread

from tunewright.service.faults import SERVER, ApiError
from tunewright.service.ids import new_id
from tunewright.service.inference.process import LOST, Event, ModelProcess
from tunewright.service.inference.settings import InferenceSettings

ASK = "ask_"
RETRY_SECONDS = 5

REFUSED = {
    "config.empty-prompt": ("prompt", "invalid_value"),
    "config.long-prompt": ("prompt", "context_length_exceeded"),
    "config.bad-schema": (None, "invalid_json_schema"),
    "config.costly-schema": (None, "invalid_json_schema"),
    "engine.no-llguidance": (None, "unsupported_value"),
    "config.bad-token": (None, "invalid_value"),
    "config.no-tools": ("tools", "unsupported_value"),
    "data.template-refused": ("prompt", "invalid_value"),
    "data.bad-tool-json": ("prompt", "invalid_value"),
    "data.costly-prompt": ("prompt", "prompt_too_costly"),
    "model.bad-chat-template": ("model", "unsupported_value"),
    "model.bad-json": ("model", "unsupported_value"),
    "model.bad-tokenizer": ("model", "unsupported_value"),
    "model.costly-to-read": ("model", "unsupported_value"),
    "model.no-chat-template": ("model", "unsupported_value"),
}
"""Code of an error of ours → the field at fault (None: the error names it) and OpenAI's code."""


class Conversation:
    """The events of one call, which may be several requests: answer numbers count through all of them."""

    def __init__(self) -> None:
        self.first: Event = {}
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._open = 0

    def listen(self, offset: int, event: Event) -> None:
        """Take an event of the request whose first answer has this number."""
        self._queue.put_nowait({**event, "answer": offset + event.get("answer", 0)})

    @property
    def is_over(self) -> bool:
        """Whether every request has told its last event."""
        return not self._open

    async def events(self, prompt_param: str) -> AsyncIterator[Event]:
        """All events to the last one. Raises ApiError."""
        if self.first:
            yield self.first
        while self._open:
            event = await self._queue.get()
            self._check(event, prompt_param)
            yield event

    async def wait_for_first(self, seconds: float, model: str, prompt_param: str) -> None:
        """Return once an answer begins. Raises ApiError: 503 when that takes too long."""
        try:
            event = await asyncio.wait_for(self._queue.get(), seconds)
        except TimeoutError:
            raise busy(f"The model '{model}' is being loaded or waits for its turn; ask again") from None
        self._check(event, prompt_param)
        self.first = event

    def expect(self, requests: int) -> None:
        """How many requests there are."""
        self._open = requests

    def _check(self, event: Event, prompt_param: str) -> None:
        kind = event["event"]
        if kind == LOST["event"]:
            raise busy("The model server was lost and is started anew; ask again")
        if kind == "error":
            raise refusal(event, prompt_param)
        if kind == "done":
            self._open -= 1


@asynccontextmanager
async def answering(
    process: ModelProcess,
    settings: InferenceSettings,
    asks: Sequence[Mapping[str, Any]],
    *,
    model: str,
    prompt_param: str,
) -> AsyncGenerator[Conversation]:
    """Send requests; inside, the first of them is accepted. Whatever is not over at the end is given up.

    Raises ApiError: 400 for what the model cannot take, 503 when the server is full or the model not ready.
    """
    if process.resting_seconds():
        raise busy("The model server is being started anew; ask again")
    conversation = Conversation()
    conversation.expect(len(asks))
    ids = [new_id(ASK) for _ in asks]
    over = False
    try:
        offset = 0
        for request_id, ask in zip(ids, asks, strict=True):
            line = {"do": "answer", "id": request_id, **ask}
            # In a thread: starting a process takes a moment, and a pipe may be full.
            heard = partial(conversation.listen, offset)
            await to_thread.run_sync(process.ask, line, asyncio.get_running_loop(), heard)
            offset += int(ask.get("answers", 1))
        await conversation.wait_for_first(settings.wait_seconds, model, prompt_param)
        yield conversation
        over = conversation.is_over
    finally:
        for request_id in ids:
            process.close(request_id, cancel=not over)


def busy(message: str, seconds: float = RETRY_SECONDS) -> ApiError:
    """503 that the official client retries by itself."""
    headers = {"retry-after": f"{max(1, round(seconds))}"}
    return ApiError(503, message, type=SERVER, code="busy", headers=headers)


def refusal(event: Event, prompt_param: str) -> ApiError:
    """The answer for an error of the model server."""
    code, message = str(event["code"]), str(event["message"])
    if code in REFUSED:
        param, name = REFUSED[code]
        param = prompt_param if param == "prompt" else param or event["where"]
        return ApiError(400, message, param=param, code=name)
    if code == "engine.reader-lost":
        return busy("The server's reader of prompts was lost and is started anew; ask again")
    if code == "engine.out-of-memory":
        return busy("The device has no memory left for this answer; ask for less, or again later")
    # The client would ask twice more, in vain.
    headers = {"x-should-retry": "false"}
    return ApiError(500, message, type=SERVER, code=code, headers=headers)
