"""What is written in a format and parsed again is the same conversation."""

import json

from hypothesis import given
from hypothesis import strategies as st

from tunewright.data.formats import detect_format, parse_row
from tunewright.data.raw_row import RawRow
from tunewright.data.strict_json import parse_json
from tunewright.types import Conversation, Message, SourceRef, ToolCall

SOURCE = SourceRef("a.jsonl", 1)
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=10)
TEXT = PLAIN.filter(str.strip)
NUMBER = st.sampled_from(["1e5", "1.10", "-0", "3", "0.5E-3"])
ARGUMENTS = st.dictionaries(PLAIN, NUMBER | TEXT.map(json.dumps) | st.just("[1,  2]"), max_size=3).map(
    lambda members: "{" + " , ".join(f"{json.dumps(key)}:{value}" for key, value in members.items()) + "}"
)
CALLS = st.lists(st.builds(ToolCall, TEXT, ARGUMENTS), min_size=1, max_size=2).map(tuple)
WEIGHTS = st.sampled_from([None, 0.0, 1.0])
TOOLS = st.lists(
    st.builds(
        lambda name, body: (
            f'{{"type": "function", "function": {{"name": {json.dumps(name)}, "parameters":{body}}}}}'
        ),
        TEXT,
        ARGUMENTS,
    ),
    max_size=2,
).map(tuple)


@st.composite
def conversations(draw: st.DrawFn, rich: bool) -> Conversation:
    """A random conversation. rich: with what only messages can hold (ids, names, reasoning …)."""
    messages = [Message("system", draw(TEXT))] if draw(st.booleans()) else []
    for turn in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(TEXT), name=draw(st.none() | TEXT) if rich else None))
        if draw(st.booleans()):
            calls = draw(CALLS)
            if rich:
                calls = tuple(ToolCall(c.name, c.arguments, f"call_{turn}_{i}") for i, c in enumerate(calls))
            content = draw(st.just("") | TEXT) if rich else ""
            messages.append(Message("assistant", content, draw(WEIGHTS), draw_reasoning(draw, rich), calls))
            messages += [Message("tool", draw(TEXT), tool_call_id=call.id) for call in calls]
        messages.append(Message("assistant", draw(TEXT), draw(WEIGHTS), draw_reasoning(draw, rich)))
    return Conversation(tuple(messages), draw(TOOLS), SOURCE)


def draw_reasoning(draw: st.DrawFn, rich: bool) -> str | None:
    return draw(st.none() | TEXT) if rich else None


def parse_back(format_: str, fields: dict[str, object]) -> object:
    """Through JSON text, as a file would hold it."""
    raw = RawRow(parse_json(json.dumps(fields)), SOURCE)
    assert detect_format([raw]) == format_
    return parse_row(raw, format_)


def write_message(message: Message) -> dict[str, object]:
    fields: dict[str, object] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["content"] = message.content or None
        fields["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.tool_calls
        ]
    optional = {
        "weight": None if message.weight is None else int(message.weight),
        "reasoning_content": message.reasoning,
        "tool_call_id": message.tool_call_id,
        "name": message.name,
    }
    return fields | {key: value for key, value in optional.items() if value is not None}


def write_turn(message: Message) -> dict[str, object]:
    sender = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}[message.role]
    turn: dict[str, object] = {"from": sender, "value": message.content}
    if message.tool_calls:
        calls = [f'{{"name": {json.dumps(c.name)}, "arguments": {c.arguments}}}' for c in message.tool_calls]
        turn = {"from": "function_call", "value": calls[0] if len(calls) == 1 else f"[{', '.join(calls)}]"}
    return turn if message.weight is None else {**turn, "weight": message.weight}


@given(conversations(rich=True))
def test_messages(row: Conversation) -> None:
    fields = {"messages": [write_message(m) for m in row.messages], "tools": f"[{','.join(row.tools)}]"}
    assert parse_back("messages", fields) == row


@given(conversations(rich=False))
def test_sharegpt(row: Conversation) -> None:
    fields = {"conversations": [write_turn(m) for m in row.messages], "tools": list(row.tools)}
    assert parse_back("sharegpt", fields) == row


@given(conversations(rich=True), conversations(rich=True))
def test_prompt_completion(first: Conversation, second: Conversation) -> None:
    prompt = [
        Message(**{**_fields(m), "weight": 0.0}) if m.role == "assistant" else m for m in first.messages
    ]
    fields = {
        "prompt": [write_message(m) for m in prompt],
        "completion": [write_message(m) for m in second.messages],
        "tools": list(first.tools),
    }
    expected = Conversation((*prompt, *second.messages), first.tools, SOURCE)
    assert parse_back("prompt_completion", fields) == expected


@given(st.none() | TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=2), TEXT, st.none() | TEXT, TEXT)
def test_alpaca(system, history, instruction, given_input, output) -> None:
    fields = {"instruction": instruction, "output": output}
    fields |= {"history": [list(pair) for pair in history]} if history else {}
    fields |= {"system": system} if system else {}
    fields |= {"input": given_input} if given_input else {}
    question = f"{instruction}\n{given_input}" if given_input else instruction
    messages = [Message("system", system)] if system else []
    for asked, answered in [*history, (question, output)]:
        messages += [Message("user", asked), Message("assistant", answered)]
    assert parse_back("alpaca", fields) == Conversation(tuple(messages), (), SOURCE)


def _fields(message: Message) -> dict[str, object]:
    return {name: getattr(message, name) for name in Message.__slots__}
