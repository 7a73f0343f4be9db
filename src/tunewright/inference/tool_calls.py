"""How a model writes its tool calls, learned from its chat template, and back from text to calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tunewright.data.templates import ChatTokenizer
from tunewright.errors import DataError, ModelError
from tunewright.types import Message, ToolCall

PROBE, CALL_ID = "probe", "abcdef123"
_VALUES = {"x": 1}
_QUESTION = Message("user", "question")
_TOOL = json.dumps(
    {
        "type": "function",
        "function": {
            "name": PROBE,
            "description": "A probe.",
            "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
        },
    }
)
_BETWEEN = " \t\r\n[,;"


@dataclass(frozen=True, slots=True)
class CallFormat:
    """marker: the text before a call's JSON, empty when the answer itself is the JSON. arguments: the key of
    the call's arguments. opening, between, closing: what the template writes before the JSON of the first
    call (from the marker on), between those of two, and after the last; `between` is None where it writes one
    call only. head, tail: a call's JSON before and after the arguments, of a call of PROBE with CALL_ID."""

    marker: str
    arguments: str
    opening: str = ""
    between: str | None = None
    closing: str = ""
    head: str = f'{{"name": "{PROBE}", "arguments": '
    tail: str = "}"

    def parse(self, text: str) -> list[ToolCall]:
        """The calls in a text that begins where the first one does; none when it cannot be read."""
        calls: list[ToolCall] = []
        rest = text[len(self.marker) :]
        while True:
            found, rest = self._read(rest)
            if not found:
                return []
            calls += found
            # Looked for behind the JSON that was read: arguments may spell the marker too.
            place = rest.find(self.marker) if self.marker else -1
            if place < 0:
                return calls
            rest = rest[place + len(self.marker) :]

    def _read(self, text: str) -> tuple[list[ToolCall], str]:
        """The calls that a text begins with, none when one cannot be read, and the text after them."""
        decoder = json.JSONDecoder()
        calls: list[ToolCall] = []
        rest = text.lstrip(_BETWEEN)
        while rest.startswith("{"):
            try:
                value, end = decoder.raw_decode(rest)
            except (ValueError, RecursionError):
                return [], ""
            call = self._call(value)
            if call is None:
                return [], ""
            calls.append(call)
            rest = rest[end:].lstrip(_BETWEEN)
        return calls, rest

    def _call(self, value: Any) -> ToolCall | None:
        name, arguments = value.get("name"), value.get(self.arguments, {})
        if not isinstance(name, str) or not name:
            return None
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return ToolCall(name, text)


def find_call_format(tokenizer: ChatTokenizer) -> CallFormat | None:
    """How the template writes calls; None when it does not, or in a form other than JSON."""
    # Mistral's template takes calls with an id only, of nine letters.
    for call_id in (None, CALL_ID):
        try:
            before = tokenizer.render((_QUESTION,), (_TOOL,), generation_prompt=True)
            whole = tokenizer.render((_QUESTION, _asking(1, call_id)), (_TOOL,))
        except (DataError, ModelError):
            continue
        start = len(before) if whole.startswith(before) else max(whole.rfind(_QUESTION.content), 0)
        found = _find_json(whole, start)
        if found is not None:
            return _call_format(tokenizer, whole[start : found[0]], whole[slice(*found)], call_id)
    return None


BARE_CALL = CallFormat("", "arguments")
"""How a call is asked for where the template does not say."""


def knows_tools(tokenizer: ChatTokenizer, messages: Sequence[Message], tools: Sequence[str]) -> bool:
    """Whether the template shows tools to the model; some leave them out without a word."""
    return tokenizer.render(messages, tools) != tokenizer.render(messages)


def _asking(calls: int, call_id: str | None) -> Message:
    call = ToolCall(PROBE, json.dumps(_VALUES), call_id)
    return Message("assistant", "", tool_calls=(call,) * calls)


def _find_json(text: str, start: int) -> tuple[int, int] | None:
    """Where the next call's JSON begins and ends."""
    place = text.find("{", start)
    while place >= 0:
        with suppress(ValueError):
            value, end = json.JSONDecoder().raw_decode(text, place)
            if _arguments_key(value) is not None:
                return place, end
        place = text.find("{", place + 1)
    return None


def _arguments_key(value: dict[str, object]) -> str | None:
    if value.get("name") != PROBE:
        return None
    return next((key for key, each in value.items() if each in (_VALUES, json.dumps(_VALUES))), None)


def _call_format(tokenizer: ChatTokenizer, lead: str, call: str, call_id: str | None) -> CallFormat:
    key = _arguments_key(json.loads(call)) or ""
    marker = _marker(lead)
    opening = lead[lead.rfind(marker) :] if marker else ""
    closing, between = _around(tokenizer, call, call_id)
    # Arguments as a text within the JSON are asked for as an object, which is read as well.
    head, tail = f'{{"name": "{PROBE}", "{key}": ', "}"
    start = call.find("{", 1)
    while start >= 0:
        value, end = json.JSONDecoder().raw_decode(call, start)
        if value == _VALUES:
            head, tail = call[:start], call[end:]
        start = call.find("{", end)
    return CallFormat(marker, key, opening, between, closing, head, tail)


def _around(tokenizer: ChatTokenizer, call: str, call_id: str | None) -> tuple[str, str | None]:
    """What stands after the last call, up to the end of the turn, and between two calls."""
    text = tokenizer.render((_QUESTION, _asking(1, call_id)), (_TOOL,))
    after = text[text.rfind(call) + len(call) :]
    ends = [
        match.start()
        for match in tokenizer.special_pattern.finditer(after)
        if tokenizer.backend.token_to_id(match.group()) in tokenizer.stop_ids
    ]
    closing = after[: ends[0]] if ends else ""
    try:
        text = tokenizer.render((_QUESTION, _asking(2, call_id)), (_TOOL,))
    except (DataError, ModelError):
        return closing, None
    parts = text.rsplit(call, 2)
    return closing, parts[1] if len(parts) == 3 and parts[1] else None


def _marker(text: str) -> str:
    """The last word before the JSON, without the bracket of a list."""
    words = text.rstrip(_BETWEEN).split()
    return words[-1] if words else ""
