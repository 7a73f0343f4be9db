"""Prompt and completion: two texts, or two lists of messages."""

from __future__ import annotations

from dataclasses import replace

from tunewright.data.formats.conversation import add_system, build_conversation
from tunewright.data.formats.field import Field
from tunewright.data.formats.messages import read_messages
from tunewright.data.formats.tools import read_row_tools
from tunewright.types import Row, TextRow


def parse_prompt_completion(row: Field) -> Row:
    """Only the completion is trained: its text, or the assistant turns of its messages."""
    prompt, completion = row.child("prompt"), row.child("completion")
    if prompt.is_list or completion.is_list:
        before, after = add_system(row, read_messages(prompt)), read_messages(completion)
        if not any(message.role == "assistant" for message in after):
            raise completion.error("holds no answer", code="data.no-answer", expected="an assistant turn")
        untrained = [replace(m, weight=0.0) if m.role == "assistant" else m for m in before]
        return build_conversation(row, [*untrained, *after], read_row_tools(row))
    if row.child("system").optional_text():
        raise row.child("system").error(
            "is given beside a prompt that is text",
            code="data.wrong-type",
            expected="it in the prompt itself",
        )
    segments = ((prompt.text(), 0.0), (completion.text(), 1.0))
    if not completion.text().strip():
        raise completion.error("is empty", code="data.no-answer", expected="the text to learn")
    return TextRow(tuple(segment for segment in segments if segment[0]), row.source)
