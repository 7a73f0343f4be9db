"""Keys that a table library added to tools and calls, with null where the row had none.

Libraries that keep rows as columns give every struct the keys of all rows: saved again as JSON, a call of
one tool carries the arguments of every other tool as null, and would teach the model to write them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from tunewright.data.formats.field import Field
from tunewright.data.strict_json import parse_json
from tunewright.errors import DataError
from tunewright.types import Message

_HINT = "a table filled in keys of other rows; keep tools and arguments as JSON text, or leave those keys out"


def check_definition(field: Field, function: Mapping[str, Any]) -> None:
    """Raise DataError when a property of the function's parameters is null, which is no JSON schema."""
    name = next((name for name, schema in _properties(function).items() if schema is None), None)
    if name is not None:
        raise _fault(field, f"has null for the parameter {name[:40]!r}")


def check_calls(turns: Field, messages: Sequence[Message], tools: Sequence[str]) -> None:
    """Raise DataError when a call has null for an argument that its tool of this row does not have."""
    calls = [call for message in messages for call in message.tool_calls if "null" in call.arguments]
    if not calls or not tools:
        return
    functions = [cast("dict[str, Any]", parse_json(tool))["function"] for tool in tools]
    known = {function["name"]: _properties(function) for function in functions}
    for call in calls:
        arguments = cast("dict[str, Any]", parse_json(call.arguments))
        properties = known.get(call.name)
        for name, value in arguments.items():
            if value is None and properties and name not in properties:
                raise _fault(turns, f"holds a call of {call.name[:40]!r} with null for {name[:40]!r}")


def _properties(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters")
    found = cast("dict[str, Any]", parameters).get("properties") if isinstance(parameters, dict) else None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _fault(field: Field, what: str) -> DataError:
    return field.error(what, code="data.null-keys", expected="a parameter of the tool", hint=_HINT)
