"""Parts of a row that the chat template leaves out of what it renders.

What an assistant turn or a tool result says is looked for within the text of its own turn: the name of a tool
stands in its definition too, and an answer may repeat a question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from tunewright.data.special_tokens import shared_length
from tunewright.data.templates import ChatTokenizer
from tunewright.errors import DataError
from tunewright.types import JsonValue, Message, ToolCall

DroppedKind = Literal["content", "reasoning", "name", "tool call", "tool arguments", "tool result", "tool"]
_REASONING = re.compile(r"<think>(.*?)(?:</think>|\Z)|\A(?!.*<think>)(.*?)</think>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DroppedPart:
    """A part of a row that no rendering shows."""

    kind: DroppedKind
    where: str

    def __str__(self) -> str:
        return f"{self.kind} {self.where}"


def find_dropped(
    messages: Sequence[Message],
    tools: Sequence[str],
    tokenizer: ChatTokenizer,
    own: Mapping[int, str],
    texts: Sequence[str],
) -> tuple[DroppedPart, ...]:
    """Parts of `messages` that are missing in the renderings `texts`. own: the text of turns that are known,
    by their index; others are rendered here where it matters."""
    restored = [tokenizer.control.unmark(text) for text in texts]
    dropped: list[DroppedPart] = []
    for index, message in enumerate(messages):
        if message.role in ("assistant", "tool"):
            text = own[index] if index in own else _own_text(messages, index, tools, tokenizer)
            shown = restored if text is None else [tokenizer.control.unmark(text)]
        else:
            shown = restored
        place = f"of turn {index + 1} ({message.role})"
        dropped += [DroppedPart(kind, f"{name}{place}") for kind, name in _missing(message, shown)]
    if tools and _ignores_tools(messages, tools, tokenizer):
        return (*dropped, *(DroppedPart("tool", name) for name in map(_tool_name, tools)))
    names = [name for name in map(_tool_name, tools) if name and not _shows(name, restored)]
    return (*dropped, *(DroppedPart("tool", name) for name in names))


def is_emptied(message: Message, own: str, special: re.Pattern[str]) -> bool:
    """Whether nothing of a turn that says something is left in its own text."""
    says = message.content.strip() or message.tool_calls or (message.reasoning or "").strip()
    left = special.sub("", own)
    return bool(says) and not re.sub(r"</?think>", "", left).strip()


def _own_text(
    messages: Sequence[Message], index: int, tools: Sequence[str], tokenizer: ChatTokenizer
) -> str | None:
    """What a turn adds to the rendering of those before it; None where they cannot be rendered alone."""
    try:
        before = tokenizer.render(messages[:index], tools) if index else ""
        text = tokenizer.render(messages[: index + 1], tools)
    except DataError:
        return None
    return text[shared_length(before, text) :]


def _missing(message: Message, texts: Sequence[str]) -> Iterator[tuple[DroppedKind, str]]:
    """Kind and name of each part of a message that no text shows."""
    left = _Left(list(texts))
    said = _split_reasoning(message.content)
    content = [part for is_reasoning, part in said if not is_reasoning]
    reasoning = [message.reasoning or "", *(part for is_reasoning, part in said if is_reasoning)]
    # All are taken, whatever the first says: what stays would count for the calls.
    if not min(map(left.take, content)):
        yield "tool result" if message.role == "tool" else "content", ""
    if not min(map(left.take, reasoning)):
        yield "reasoning", ""
    # Templates tell a tool's result by its call, so its name says nothing new.
    if message.name is not None and message.role != "tool" and not left.take(message.name):
        yield "name", ""
    for call in message.tool_calls:
        if not left.take_name(call.name):
            yield "tool call", f"{call.name} "
        elif not _shows_arguments(call, left.texts):
            yield "tool arguments", f"of {call.name} "


@dataclass(frozen=True, slots=True)
class _Left:
    """Texts without the parts found so far, so that none of them counts for another part."""

    texts: list[str]

    def take(self, part: str) -> bool:
        """Whether a text shows the part, which is then taken out of it."""
        part = part.strip()
        for number, text in enumerate(self.texts if part else ()):
            for form in _forms(part):
                if form in text:
                    self.texts[number] = text.replace(form, "\n", 1)
                    return True
        return not part

    def take_name(self, name: str) -> bool:
        """The same for a whole word."""
        pattern = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
        for number, text in enumerate(self.texts):
            if pattern.search(text):
                self.texts[number] = pattern.sub("\n", text, count=1)
                return True
        return False


def _shows_arguments(call: ToolCall, texts: Sequence[str]) -> bool:
    """Whether a text shows the arguments as written, or every key and value of them in whatever syntax."""
    if _shows(call.arguments, texts):
        return True
    try:
        value = cast(JsonValue, json.loads(call.arguments))
    except ValueError:
        return False
    return any(all(_shows_leaf(leaf, text) for leaf in _leaves(value)) for text in texts)


def _leaves(value: JsonValue) -> Iterator[JsonValue]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _shows_leaf(leaf: JsonValue, text: str) -> bool:
    if isinstance(leaf, str):
        return not leaf.strip() or any(form in text for form in _forms(leaf.strip()))
    forms = {json.dumps(leaf), str(leaf)}
    if isinstance(leaf, float) and leaf.is_integer():
        forms.add(str(int(leaf)))
    return any(form in text for form in forms)


def _shows(part: str, texts: Sequence[str]) -> bool:
    return any(form in text for form in _forms(part) for text in texts)


def _forms(part: str) -> Iterator[str]:
    """The text as it stands, and as it stands in JSON, in JSON in ASCII and in JSON within JSON."""
    yield part
    quoted = json.dumps(part, ensure_ascii=False)[1:-1]
    yield quoted
    yield json.dumps(part)[1:-1]
    yield json.dumps(quoted, ensure_ascii=False)[1:-1]
    yield repr(part)[1:-1]


def _split_reasoning(content: str) -> list[tuple[bool, str]]:
    """The content in pieces, those between `<think>` and `</think>` as reasoning, which templates move."""
    if "</think>" not in content and "<think>" not in content:
        return [(False, content)]
    pieces: list[tuple[bool, str]] = []
    at = 0
    for match in _REASONING.finditer(content):
        pieces += [(False, content[at : match.start()]), (True, match.group(1) or match.group(2) or "")]
        at = match.end()
    return [*pieces, (False, content[at:])]


def _ignores_tools(messages: Sequence[Message], tools: Sequence[str], tokenizer: ChatTokenizer) -> bool:
    try:
        return tokenizer.render(messages, tools) == tokenizer.render(messages)
    except DataError:
        return False


def _tool_name(tool: str) -> str:
    try:
        parsed = cast(JsonValue, json.loads(tool))
    except ValueError:
        return ""
    function = parsed.get("function", parsed) if isinstance(parsed, dict) else None
    return str(function.get("name", "")) if isinstance(function, dict) else ""
