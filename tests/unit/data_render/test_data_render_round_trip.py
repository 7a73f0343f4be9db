"""What a conversation is rendered to reads as the same conversation, and its labels are the answers."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_tokenizers import write_tokenizer
from families import CHAT_TEMPLATE
from tunewright.config.schema import DataConfig
from tunewright.data.mask import build_examples
from tunewright.data.templates import ChatTokenizer, load_tokenizer
from tunewright.types import Conversation, Example, Message, SourceRef, ToolCall

SOURCE = SourceRef("rows.jsonl", 1)
# Any text but that of the marks by which the rendering is taken apart again.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0<"), min_size=1, max_size=12)
NAME = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
ARGUMENTS = st.dictionaries(NAME, TEXT | st.integers(-9, 9), max_size=2).map(json.dumps)
TOOL = st.builds(lambda name: json.dumps({"type": "function", "function": {"name": name}}), NAME)
TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n", re.DOTALL)
CALL = re.compile(r'<call>\{"name": (".*?"), "arguments": (.*?)\}</call>', re.DOTALL)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder = tmp_path_factory.mktemp("round-trip") / "tokenizer"
    return load_tokenizer(write_tokenizer(folder, CHAT_TEMPLATE), None)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages = [Message("system", draw(TEXT))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(TEXT)))
        if draw(st.booleans()):
            call = ToolCall(draw(NAME), draw(ARGUMENTS))
            messages += [Message("assistant", "", tool_calls=(call,)), Message("tool", draw(TEXT))]
        messages.append(Message("assistant", draw(TEXT), weight=draw(st.sampled_from([None, 0.0, 1.0]))))
    return Conversation(
        (*messages, Message("user", "End?"), Message("assistant", "End.")), tools(draw), SOURCE
    )


def tools(draw: st.DrawFn) -> tuple[str, ...]:
    return tuple(draw(st.lists(TOOL, max_size=2)))


def render(row: Conversation, tokenizer: ChatTokenizer) -> Example:
    (example,) = build_examples(row, tokenizer, DataConfig(train="rows.jsonl"))
    return example


def read(text: str) -> tuple[list[tuple[str, str, list[tuple[str, object]]]], list[object]]:
    """(role, content, calls) of each turn, and the tools. All of the text must belong to a turn."""
    assert TURN.sub("", text) == ""
    turns = [(role, body) for role, body in TURN.findall(text)]
    declared = [json.loads(line) for role, body in turns if role == "tools" for line in body.splitlines()]
    return [
        (role, CALL.sub("", body), [(json.loads(n), json.loads(a)) for n, a in CALL.findall(body)])
        for role, body in turns
        if role != "tools"
    ], declared


@given(row=conversations())
def test_a_rendered_conversation_reads_as_itself(tokenizer: ChatTokenizer, row: Conversation) -> None:
    turns, declared = read(tokenizer.decode(render(row, tokenizer).tokens_T.tolist(), skip_special=False))
    assert turns == [
        (m.role, m.content, [(call.name, json.loads(call.arguments)) for call in m.tool_calls])
        for m in row.messages
    ]
    assert declared == [json.loads(tool) for tool in row.tools]


@given(row=conversations())
def test_labels_are_the_trained_answers_and_nothing_else(tokenizer: ChatTokenizer, row: Conversation) -> None:
    example = render(row, tokenizer)
    end = tokenizer.backend.token_to_id("<|im_end|>")
    stops = np.flatnonzero((example.tokens_T == end) & (example.weights_T > 0))
    answers = [m for m in row.messages if m.role == "assistant" and m.weight != 0]
    assert len(stops) == len(answers)
    text = tokenizer.decode(example.tokens_T[example.weights_T > 0].tolist(), skip_special=False)
    bodies = re.split(r"<\|im_end\|>\n?", text)[:-1]
    for body, answer in zip(bodies, answers, strict=True):
        # A line end that shares its token with the prompt's own is context (test_data_mask.py).
        expected = answer.content or f'<call>{{"name": "{answer.tool_calls[0].name}"'
        assert body.startswith(expected) or body == expected.removeprefix("\n")
