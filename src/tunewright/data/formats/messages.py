"""OpenAI messages: {role, content} with tools, tool_calls, tool results, weights and reasoning."""

from __future__ import annotations

from tunewright.data.formats.conversation import add_system, build_conversation
from tunewright.data.formats.detect import map_hint
from tunewright.data.formats.field import Field, describe
from tunewright.data.formats.lists import read_list
from tunewright.data.formats.tools import read_call, read_row_tools
from tunewright.data.formats.weights import read_weight
from tunewright.types import Conversation, Message, Role, ToolCall

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


def parse_messages(row: Field) -> Conversation:
    """Turns by `role`. The older `functions` and `function_call` are read as tools and tool calls."""
    turns = row.child("messages")
    return build_conversation(turns, add_system(row, read_messages(turns)), read_row_tools(row))


def read_messages(turns: Field) -> list[Message]:
    """The messages of a list of {role, content}."""
    return [_read_message(turn) for turn in read_list(turns)]


def _read_message(turn: Field) -> Message:
    sender = turn.child("role")
    if sender.is_absent and not turn.child("from").is_absent:
        raise sender.error(
            "is missing",
            code="data.missing-field",
            got="`from`, as in the format sharegpt",
            expected="the role",
            hint=map_hint("conversations", "messages"),
        )
    role = _read_role(sender)
    calls = _read_calls(turn)
    reasoning = _read_reasoning(turn)
    if role != "assistant" and (calls or reasoning):
        raise turn.error(
            f"is a {role} turn with tool calls or reasoning",
            code="data.role-order",
            expected="those on assistant turns only",
        )
    return Message(
        role=role,
        content=_read_content(turn, has_calls=bool(calls)),
        weight=read_weight(turn, role),
        reasoning=reasoning,
        tool_calls=calls,
        tool_call_id=turn.child("tool_call_id").optional_text(),
        name=turn.child("name").optional_text(),
    )


def _read_role(field: Field) -> Role:
    role = ROLES.get(field.text())
    if role is None:
        raise field.error(
            "is not a known role",
            code="data.unknown-role",
            got=describe(field.value),
            expected=", ".join(ROLES),
        )
    return role


def _read_content(turn: Field, *, has_calls: bool) -> str:
    """Text, the text parts joined as they stand, or nothing beside tool calls."""
    content = turn.child("content")
    if content.is_absent and has_calls:
        return ""
    if not isinstance(content.value, list):
        return content.text()
    return "".join(_read_part(part) for part in content.items())


def _read_part(part: Field) -> str:
    kind = part.child("type").text()
    if kind != "text":
        raise part.error(
            "is not text",
            code="data.not-text",
            got=f"a part of type {kind[:40]!r}",
            expected="parts of type 'text'",
        )
    return part.child("text").text()


def _read_reasoning(turn: Field) -> str | None:
    given = [field for key in _REASONING_KEYS if not (field := turn.child(key)).is_absent]
    texts = {field.text() for field in given}
    if len(texts) > 1:
        names = " and ".join(field.name for field in given)
        raise turn.error("has two different reasonings", code="data.wrong-type", got=names)
    return (texts.pop() or None) if texts else None


def _read_calls(turn: Field) -> tuple[ToolCall, ...]:
    calls, old = turn.child("tool_calls"), turn.child("function_call")
    if not calls.is_absent:
        return tuple(read_call(call) for call in calls.items())
    return () if old.is_absent else (read_call(old),)
