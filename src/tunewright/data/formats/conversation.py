"""What holds for a conversation of any format: it has an answer, no empty turns, results only after calls."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.data.formats.field import Field
from tunewright.data.formats.null_keys import check_calls
from tunewright.types import Conversation, Message


def add_system(row: Field, messages: Sequence[Message]) -> list[Message]:
    """The messages behind the system prompt that the row has beside them, under `system`, if it has one."""
    system = row.child("system").optional_text()
    opening = next((message.content for message in messages if message.role == "system"), None)
    if not system or opening == system:
        return list(messages)
    if opening is not None:
        raise row.child("system").error(
            "is given, and a system turn as well", code="data.role-order", expected="one of the two"
        )
    return [Message("system", system), *messages]


def build_conversation(turns: Field, messages: Sequence[Message], tools: tuple[str, ...]) -> Conversation:
    """The checked conversation. turns: the field that the messages came from, named in messages.

    Raises DataError when there is no message, no answer, an empty turn, a tool result without a call, or an
    argument that only a table added.
    """
    if not messages:
        raise turns.error("holds no messages", code="data.empty-messages", expected="at least one turn")
    for index, message in enumerate(messages):
        _check_content(turns, index, message)
    if all(message.role != "assistant" for message in messages):
        raise turns.error(
            "holds no answer",
            code="data.no-answer",
            got=", ".join(message.role for message in messages[:8]),
            expected="at least one assistant turn",
        )
    _check_tool_results(turns, messages)
    check_calls(turns, messages, tools)
    return Conversation(tuple(messages), tools, turns.source)


def _check_content(turns: Field, index: int, message: Message) -> None:
    # An empty system prompt or tool result is common and harmless; an empty question or answer is a fault.
    if message.role in ("system", "tool") or message.tool_calls or message.content.strip():
        return
    what = "an empty answer" if message.role == "assistant" else "an empty user turn"
    code = "data.no-answer" if message.role == "assistant" else "data.empty-message"
    raise turns.error(f"holds {what} (turn {index + 1})", code=code, expected="text")


def _check_tool_results(turns: Field, messages: Sequence[Message]) -> None:
    """Each tool turn follows a call, other tool turns between; an id it names is one of the ids called."""
    called: Message | None = None
    for index, message in enumerate(messages):
        if message.role != "tool":
            called = message if message.tool_calls else None
            continue
        if called is None:
            raise turns.error(
                f"holds a tool result that answers no call (turn {index + 1})",
                code="data.role-order",
                expected="an assistant turn with a call right before it",
            )
        ids = [call.id for call in called.tool_calls if call.id is not None]
        if ids and message.tool_call_id is not None and message.tool_call_id not in ids:
            raise turns.error(
                f"holds a tool result for an unknown call (turn {index + 1})",
                code="data.role-order",
                got=f"tool_call_id {message.tool_call_id[:40]!r}",
                expected=" or ".join(ids)[:200],
            )
