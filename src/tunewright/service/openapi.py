"""Our OpenAPI document: FastAPI's, and what it does not see: the key, and the objects inside a stream."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from tunewright.service.schemas.answers import ChatCompletionChunk
from tunewright.service.schemas.lists import ApiModel

SERVER_SENT = "text/event-stream"
_PLACE = "#/components/schemas/{model}"
_ONLY_STREAMED = (ChatCompletionChunk,)
"""Objects that no plain answer has, so that FastAPI does not find them."""


class Documented(FastAPI):
    """The application with its whole document."""

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            _, found = models_json_schema(
                [(model, "serialization") for model in _ONLY_STREAMED], ref_template=_PLACE
            )
            schemas = document["components"]["schemas"]
            document["components"]["schemas"] = dict(sorted({**found["$defs"], **schemas}.items()))
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}]
        return super().openapi()


def streamed(
    item: type[ApiModel], description: str, whole: type[ApiModel] | None = None
) -> dict[int | str, dict[str, Any]]:
    """What a route says of its answers: JSON, or server-sent events that each hold one `item`.

    whole: the model of the JSON, unless the route names it by itself."""
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": _PLACE.format(model=item.__name__)},
    }
    event = {"type": "object", "required": ["data"], "properties": {"data": data}}
    content = {SERVER_SENT: {"schema": {"type": "string"}, "itemSchema": event}}
    answer: dict[str, Any] = {"content": content, "description": description}
    return {200: answer if whole is None else {**answer, "model": whole}}
