"""What a chat call may say about the form of its answer: JSON of a schema, and calls of tools."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunewright.service.faults import bad_value

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]


class _Known(BaseModel):
    """Clients send fields of their own beside those that mean something here."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)


class ToolFunction(_Known):
    """A function that the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments, for the model's template; calls that `tool_choice` forces keep to it."""
    strict: bool | None = None
    """Accepted, changes nothing: forced calls keep to the schema always, others as far as the model does."""


class Tool(_Known):
    """A tool that the model may use."""

    type: str
    """`function`."""
    function: ToolFunction | None = None


class JsonSchemaFormat(_Known):
    """The schema that an answer keeps to."""

    name: Name
    description: str | None = None
    schema_: Annotated[dict[str, Any] | bool | None, Field(alias="schema")] = None
    """JSON schema; any object if left out."""
    strict: bool | None = None
    """Accepted, changes nothing: answers keep to the schema always."""


class ResponseFormat(_Known):
    """The form of the answer."""

    type: str
    """`text`, `json_object` or `json_schema`."""
    json_schema: JsonSchemaFormat | None = None
    """With `json_schema`."""


class _FunctionName(_Known):
    name: str


class _Function(_Known):
    type: Literal["function"] = "function"
    function: _FunctionName


class _AllowedTools(_Known):
    mode: Literal["auto", "required"]
    tools: Annotated[list[_Function], Field(min_length=1, max_length=128)]


class ToolChoiceObject(_Known):
    """One function to call, or some of the tools."""

    type: Literal["function", "allowed_tools"]
    function: _FunctionName | None = None
    """With `function`: which."""
    allowed_tools: _AllowedTools | None = None
    """With `allowed_tools`: which, and whether one of them must be called."""


ToolChoice = Literal["none", "auto", "required"] | ToolChoiceObject


def check_response_format(wanted: ResponseFormat | None) -> None:
    """Raise ApiError 400 for a form that is not there."""
    if wanted is None:
        return
    if wanted.type not in ("text", "json_object", "json_schema"):
        message = "The response format may be 'text', 'json_object' or 'json_schema'"
        raise bad_value(message, "response_format.type", "unsupported_value")
    if wanted.type == "json_schema" and wanted.json_schema is None:
        message = "The response format 'json_schema' needs a 'json_schema' with 'name' and 'schema'"
        raise bad_value(message, "response_format.json_schema", "missing_required_parameter")


def check_tools(tools: list[Tool] | None, choice: ToolChoice | None) -> None:
    """Raise ApiError 400 for tools that are not there, and for a choice among tools that were not given."""
    for place, tool in enumerate(tools or ()):
        if tool.type != "function" or tool.function is None:
            message = "Only tools of type 'function' are available"
            raise bad_value(message, f"tools.{place}", "unsupported_value")
    if isinstance(choice, ToolChoiceObject) and getattr(choice, choice.type) is None:
        raise bad_value(f"'tool_choice' of type '{choice.type}' needs '{choice.type}'", "tool_choice")
    if choice not in (None, "none") and not tools:
        raise bad_value("'tool_choice' needs 'tools' to choose from", "tool_choice")
    known = {tool.function.name for tool in tools or () if tool.function}
    for name in chosen_names(choice) or ():
        if name not in known:
            message = f"'tool_choice' names '{name}', which is not among 'tools'"
            raise bad_value(message, "tool_choice")


def chosen_names(choice: ToolChoice | None) -> list[str] | None:
    """The functions that a choice is limited to; None for all."""
    if not isinstance(choice, ToolChoiceObject):
        return None
    if choice.function is not None:
        return [choice.function.name]
    return [each.function.name for each in choice.allowed_tools.tools] if choice.allowed_tools else []


def must_call(choice: ToolChoice | None) -> bool:
    """Whether a choice leaves no other answer than a call."""
    if isinstance(choice, ToolChoiceObject):
        return choice.allowed_tools is None or choice.allowed_tools.mode == "required"
    return choice == "required"
