"""How a model writes its tool calls, learned from its chat template, and back from text to calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from tunewright.data.templates import ChatTokenizer
from tunewright.errors import DataError, ModelError
from tunewright.types import Message, ToolCall

_NAME, _VALUES = "probe", {"x": 1}
_QUESTION = Message("user", "question")
_CALL = Message("assistant", "", tool_calls=(ToolCall(_NAME, json.dumps(_VALUES)),))
_TOOL = json.dumps(
    {
        "type": "function",
        "function": {
            "name": _NAME,
            "description": "A probe.",
            "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
        },
    }
)
_BETWEEN = " \t\r\n[,;"


@dataclass(frozen=True, slots=True)
class CallFormat:
    """marker: the text before a call's JSON, empty when the answer itself is the JSON. arguments: the key of
    the call's arguments."""

    marker: str
    arguments: str

    def parse(self, text: str) -> list[ToolCall]:
        """The calls in a text that begins where the first one does; none when it cannot be read."""
        parts = text.split(self.marker)[1:] if self.marker else [text]
        calls: list[ToolCall] = []
        for part in parts:
            found = self._read(part)
            if not found:
                return []
            calls += found
        return calls

    def _read(self, text: str) -> list[ToolCall]:
        decoder = json.JSONDecoder()
        calls: list[ToolCall] = []
        rest = text.lstrip(_BETWEEN)
        while rest.startswith("{"):
            try:
                value, end = decoder.raw_decode(rest)
            except (ValueError, RecursionError):
                return []
            call = self._call(value)
            if call is None:
                return []
            calls.append(call)
            rest = rest[end:].lstrip(_BETWEEN)
        return calls

    def _call(self, value: Any) -> ToolCall | None:
        name, arguments = value.get("name"), value.get(self.arguments, {})
        if not isinstance(name, str) or not name:
            return None
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return ToolCall(name, text)


def find_call_format(tokenizer: ChatTokenizer) -> CallFormat | None:
    """How the template writes calls; None when it does not, or in a form other than JSON."""
    try:
        before = tokenizer.render((_QUESTION,), (_TOOL,), generation_prompt=True)
        whole = tokenizer.render((_QUESTION, _CALL), (_TOOL,))
    except (DataError, ModelError):
        return None
    start = len(before) if whole.startswith(before) else whole.rfind(_QUESTION.content)
    place = whole.find("{", max(start, 0))
    while place >= 0:
        key = _arguments_key(whole, place)
        if key is not None:
            return CallFormat(_marker(whole[max(start, 0) : place]), key)
        place = whole.find("{", place + 1)
    return None


def knows_tools(tokenizer: ChatTokenizer, messages: Sequence[Message], tools: Sequence[str]) -> bool:
    """Whether the template shows tools to the model; some leave them out without a word."""
    return tokenizer.render(messages, tools) != tokenizer.render(messages)


def _arguments_key(text: str, place: int) -> str | None:
    try:
        value: object = json.JSONDecoder().raw_decode(text, place)[0]
    except ValueError:
        return None
    fields = cast("dict[str, object]", value)
    if fields.get("name") != _NAME:
        return None
    return next((key for key, each in fields.items() if each in (_VALUES, json.dumps(_VALUES))), None)


def _marker(text: str) -> str:
    """The last word before the JSON, without the bracket of a list."""
    words = text.rstrip(_BETWEEN).split()
    return words[-1] if words else ""
