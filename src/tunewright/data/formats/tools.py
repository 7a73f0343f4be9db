"""Tool definitions and tool calls as JSON text, spelled as in the file.

A definition is kept in the form that chat templates expect, `{"type": "function", "function": {…}}`; a
bare `{"name": …}` gets that wrapped around its own text.
"""

from __future__ import annotations

from typing import cast

from tunewright.data.formats.detect import map_hint
from tunewright.data.formats.field import Field
from tunewright.data.formats.null_keys import check_definition
from tunewright.data.strict_json import JsonFault, dump_json, parse_json, split_array, split_object
from tunewright.errors import DataError
from tunewright.types import JsonValue, ToolCall

TOOL_KEYS = ("tool_defs", "tool_definitions", "tool_schemas", "available_tools", "function_definitions")
"""Names under which other tools keep the definitions."""


def read_tools(field: Field) -> tuple[str, ...]:
    """One JSON text per tool of a list, or of the JSON text of a list. Absent or empty text: no tools."""
    if field.is_absent or field.value == "":
        return ()
    if isinstance(field.value, str):
        return tuple(_read_definition(field, text) for text in _split_array(field, field.value))
    return tuple(_read_definition(item, _json_text(item)) for item in field.items())


def read_row_tools(row: Field) -> tuple[str, ...]:
    """The tools of a row, under `tools` or the older `functions`.

    Raises DataError where both are given, or where another key holds them: calls would be trained without
    the definitions that belong to them.
    """
    tools, functions = read_tools(row.child("tools")), read_tools(row.child("functions"))
    if tools and functions:
        raise row.child("functions").error(
            "is given, and tools as well", code="data.wrong-type", expected="one of the two"
        )
    for key in () if tools or functions else TOOL_KEYS:
        if not row.child(key).is_absent and row.child(key).value not in ("", []):
            raise row.child(key).error(
                "looks like tool definitions, which are read from `tools`",
                code="data.wrong-type",
                hint=map_hint("tools", key),
            )
    return tools or functions


def read_call(field: Field) -> ToolCall:
    """A call of the OpenAI form, `{"id", "type", "function": {"name", "arguments"}}`, or of its function."""
    function = field if field.child("function").is_absent else field.child("function")
    return ToolCall(
        name=_read_name(function.child("name")),
        arguments=_read_arguments(function.child("arguments")),
        id=field.child("id").optional_text() or None,
    )


def read_call_text(field: Field) -> tuple[ToolCall, ...]:
    """Calls from the JSON text of one `{"name", "arguments"}` or of a list of them."""
    text = field.text()
    value = _parse(field, text)
    if isinstance(value, list):
        if not value:
            raise _bad_json(field, "holds no call")
        return tuple(_call_from_text(field, element) for element in split_array(text))
    return (_call_from_text(field, text),)


def _call_from_text(field: Field, text: str) -> ToolCall:
    call = field.replaced(_parse(field, text))
    if not isinstance(call.value, dict):
        raise _bad_json(field, "is not a call")
    arguments = call.child("arguments")
    if isinstance(arguments.value, dict):
        return ToolCall(_read_name(call.child("name")), split_object(text)["arguments"])
    return ToolCall(_read_name(call.child("name")), _read_arguments(arguments))


def _read_name(field: Field) -> str:
    if not field.text():
        raise _bad_json(field, "is empty")
    return field.text()


def _read_arguments(field: Field) -> str:
    text = _json_text(field)
    value = _parse(field, text)
    if not isinstance(value, dict):
        is_twice = isinstance(value, str) and value.lstrip().startswith("{")
        twice = "the text is JSON of the JSON text of the arguments: decode it once, with json.loads"
        none = 'a call without arguments has "{}"' if not value else None
        raise _bad_json(field, "is not a JSON object", hint=twice if is_twice else none)
    return text


def _read_definition(field: Field, text: str) -> str:
    tool = field.replaced(_parse(field, text))
    if not isinstance(tool.value, dict):
        raise _bad_json(field, "is not a tool definition")
    is_bare = tool.child("function").is_absent
    function = tool if is_bare else tool.child("function")
    _read_name(function.child("name"))
    if not isinstance(function.child("parameters").value, (dict, type(None))):
        raise function.child("parameters").wrong_type("a JSON schema (an object)")
    check_definition(field, cast("dict[str, JsonValue]", function.value))
    return f'{{"type": "function", "function": {text}}}' if is_bare else text


def _json_text(field: Field) -> str:
    """The text itself, or the text of an object."""
    if isinstance(field.value, str):
        return field.value
    if not field.is_object:
        raise field.wrong_type("an object or its JSON text")
    if field.columnar:
        raise _bad_json(
            field,
            "is a nested column",
            hint="nested columns take on keys of other rows; store tools and arguments as JSON text",
        )
    return dump_json(cast("JsonValue", field.value))


def _split_array(field: Field, text: str) -> list[str]:
    if not isinstance(_parse(field, text), list):
        raise _bad_json(field, "is not a JSON list of tool definitions")
    return split_array(text)


def _parse(field: Field, text: str) -> JsonValue:
    try:
        return parse_json(text)
    except JsonFault as fault:
        at = f" at column {fault.position + 1}" if fault.position is not None else ""
        hint = 'a call without arguments has "{}"' if not text else None
        raise _bad_json(field, f"is not valid JSON{at}: {fault.what}", hint=hint) from fault


def _bad_json(field: Field, what: str, *, hint: str | None = None) -> DataError:
    expected = '{"name": …, "arguments": {…}}' if "call" in what else None
    shown = repr(field.value[:60]) if isinstance(field.value, str) else None
    return field.error(what, code="data.bad-tool-json", got=shown, expected=expected, hint=hint)
