"""The grammar that a chat call asks for, as the model server takes it."""

from __future__ import annotations

import json
from typing import Any

from tunewright.service.inference.json_schema import prepare_schema
from tunewright.service.schemas.chat import ChatRequest
from tunewright.service.schemas.structured import ResponseFormat, Tool, chosen_names, must_call

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def offered_tools(body: ChatRequest) -> list[Tool]:
    """The tools that the model is shown."""
    names = chosen_names(body.tool_choice)
    tools = [] if body.tool_choice == "none" else body.tools or []
    return [tool for tool in tools if names is None or (tool.function and tool.function.name in names)]


def grammar_fields(body: ChatRequest) -> dict[str, Any] | None:
    """Fields of the model server's Grammar; None for an answer of any form. Raises ApiError 400 for a schema
    that cannot be kept to."""
    schema = _answer_schema(body.response_format)
    forced = must_call(body.tool_choice)
    if schema is None and not forced:
        return None
    is_one = body.parallel_tool_calls is False or _is_named(body)
    return {
        "schema": None if forced or schema is None else json.dumps(schema),
        "tools": [
            (tool.function.name, json.dumps(_arguments(tool, place)))
            for place, tool in enumerate(offered_tools(body))
            if tool.function
        ],
        "many": not is_one,
    }


def _answer_schema(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        return {"type": "object"}
    return prepare_schema(wanted.json_schema.schema_, "response_format.json_schema.schema")


def _arguments(tool: Tool, place: int) -> dict[str, Any]:
    parameters = tool.function.parameters if tool.function else None
    if not parameters:
        return NO_ARGUMENTS
    found = prepare_schema(parameters, f"tools.{place}.function.parameters")
    return (
        found if {"type", "$ref", "anyOf", "oneOf", "allOf"} & found.keys() else {"type": "object", **found}
    )


def _is_named(body: ChatRequest) -> bool:
    names = chosen_names(body.tool_choice)
    return not isinstance(body.tool_choice, str) and names is not None and len(names) == 1
