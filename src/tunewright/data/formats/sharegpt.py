"""ShareGPT: conversations of {from, value}; optional system and tools."""

from __future__ import annotations

from tunewright.data.formats.conversation import add_system, build_conversation
from tunewright.data.formats.detect import map_hint
from tunewright.data.formats.field import Field, describe
from tunewright.data.formats.lists import read_list
from tunewright.data.formats.tools import read_call_text, read_row_tools
from tunewright.data.formats.weights import read_weight
from tunewright.types import Conversation, Message, Role

ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


def parse_sharegpt(row: Field) -> Conversation:
    """Turns by `from`; a `function_call` turn holds JSON text, an `observation` what the tool returned."""
    turns = row.child("conversations")
    messages = add_system(row, [_read_turn(turn) for turn in read_list(turns)])
    return build_conversation(turns, messages, read_row_tools(row))


def _read_turn(turn: Field) -> Message:
    sender = turn.child("from")
    if sender.is_absent and not turn.child("role").is_absent:
        raise sender.error(
            "is missing",
            code="data.missing-field",
            got="`role`, as in the format messages",
            expected="the sender",
            hint=map_hint("messages", "conversations"),
        )
    role = ROLES.get(sender.text())
    if role is None:
        raise sender.error(
            "is not a known role",
            code="data.unknown-role",
            got=describe(sender.value),
            expected=", ".join(ROLES),
        )
    value = turn.child("value")
    weight = read_weight(turn, role)
    if sender.value == "function_call":
        return Message(role, "", weight=weight, tool_calls=read_call_text(value))
    return Message(role, value.text(), weight=weight)
