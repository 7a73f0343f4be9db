"""Alpaca: instruction, input, output; optional system and history."""

from __future__ import annotations

from tunewright.data.formats.conversation import build_conversation
from tunewright.data.formats.field import Field
from tunewright.data.formats.lists import read_list
from tunewright.types import Conversation, Message


def parse_alpaca(row: Field) -> Conversation:
    """The question is `instruction` and, on a new line, `input`; `output` is the answer."""
    messages: list[Message] = []
    if system := row.child("system").optional_text():
        messages.append(Message("system", system))
    messages += _read_history(row.child("history"))
    parts = (row.child("instruction").text(), row.child("input").optional_text())
    messages.append(Message("user", "\n".join(part for part in parts if part)))
    output = row.child("output")
    if not output.text().strip():
        raise output.error("is empty", code="data.no-answer", expected="the answer")
    messages.append(Message("assistant", output.text()))
    return build_conversation(row, messages, ())


def _read_history(history: Field) -> list[Message]:
    """Turns of earlier `[question, answer]` pairs."""
    if history.is_absent or history.value == "":
        return []
    messages: list[Message] = []
    for pair in read_list(history):
        turns = pair.items()
        if len(turns) != 2:
            raise pair.error(
                "is not a pair",
                code="data.wrong-type",
                got=f"{len(turns)} items",
                expected="[question, answer]",
            )
        messages += [Message("user", turns[0].text()), Message("assistant", turns[1].text())]
    return messages
