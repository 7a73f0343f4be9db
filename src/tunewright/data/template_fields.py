"""Messages and tools as the JSON values that chat templates read."""

from __future__ import annotations

import json

from tunewright.errors import DataError
from tunewright.types import JsonValue, Message, ToolCall


def template_message(message: Message, *, mapping: bool) -> dict[str, JsonValue]:
    """The fields of a message. mapping: arguments of calls as objects, not as JSON text."""
    fields: dict[str, JsonValue] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        fields["reasoning_content"] = message.reasoning
    if message.tool_calls:
        fields["tool_calls"] = [_template_call(call, mapping) for call in message.tool_calls]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        fields["name"] = message.name
    return fields


def _template_call(call: ToolCall, mapping: bool) -> JsonValue:
    arguments: JsonValue = (
        parse_field(call.arguments, f"the arguments of {call.name}") if mapping else call.arguments
    )
    fields: dict[str, JsonValue] = {
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
    return {"id": call.id, **fields} if call.id is not None else fields


def parse_field(text: str, what: str) -> JsonValue:
    """The value of JSON text of a row. Raises DataError that names `what` it is."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(
            f"{what} is not JSON: {error}", got=repr(text[:80]), code="data.bad-tool-json"
        ) from error
