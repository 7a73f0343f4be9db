"""The one model server of an API process, as the routes use it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

from anyio import to_thread
from fastapi import Depends, Request

from tunewright.service.context import Service
from tunewright.service.faults import ApiError
from tunewright.service.inference.asking import Conversation, answering, busy
from tunewright.service.inference.places import Places
from tunewright.service.inference.process import ModelProcess
from tunewright.service.inference.served import find_served, forget_served
from tunewright.service.inference.training import refuse_while_training
from tunewright.service.records import KeyRecord
from tunewright.service.schemas.chat import Sampling

OPENAI_TEMPERATURE = 1.0


class ModelServer:
    """Knows the models of the service and the process that answers with them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.process = ModelProcess(service.settings.inference)
        self._places = Places(service.settings.limits)

    async def prepare(self, key: KeyRecord, name: str) -> Mapping[str, str | None]:
        """A model that a key may use, as the process takes it.

        Raises ApiError: 404 for none of this name or when this server answers no chats, 503 while a job has
        the accelerator."""
        if self._service.settings.inference.policy == "off":
            message = "This server answers no chats: it was started with --inference off"
            raise ApiError(404, message, code="inference_off")
        await to_thread.run_sync(refuse_while_training, self._service, self.process)
        found = await to_thread.run_sync(find_served, self._service, key, name)
        return {**found, "project": key.project}

    def forget(self, artifact_id: str) -> None:
        """Free what a deleted model takes, in memory and on disk."""
        self.process.forget(artifact_id)
        forget_served(self._service, artifact_id)

    @asynccontextmanager
    async def answering(
        self, asks: Sequence[Mapping[str, Any]], *, model: str, prompt_param: str
    ) -> AsyncGenerator[Conversation]:
        """Send requests, as asking.answering does. Raises ApiError 429 also, for too many of one project."""
        settings = self._service.settings.inference
        project = str(asks[0]["project"])
        if self.process.in_flight + len(asks) > settings.requests and not self._places.has_none(project):
            raise busy("The server has too many chats to answer; ask again")
        with self._places.take(project, asks):
            sending = answering(self.process, settings, asks, model=model, prompt_param=prompt_param)
            async with sending as conversation:
                yield conversation


def current_model_server(request: Request) -> ModelServer:
    """The model server of the API process that a request came to."""
    return cast(ModelServer, request.app.state.model_server)


ModelServerArg = Annotated[ModelServer, Depends(current_model_server)]


def sampling_fields(body: Sampling) -> dict[str, Any]:
    """What chats and completions ask of the process in the same words."""
    seed = secrets.randbits(63) if body.seed is None else body.seed % 2**64
    options = {
        "temperature": OPENAI_TEMPERATURE if body.temperature is None else body.temperature,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "top_k": max(0, body.top_k or 0),
        "min_p": body.min_p or 0.0,
        "seed": seed,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "logit_bias": body.logit_bias or {},
    }
    return {"answers": body.n or 1, "stops": body.stop or [], "options": options}
