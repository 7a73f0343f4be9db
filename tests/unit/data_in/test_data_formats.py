import json
from typing import get_args

import pytest

from tunewright.config.schema import SourceConfig
from tunewright.data.formats import FORMATS, detect_format, parse_row
from tunewright.data.raw_row import RawRow
from tunewright.errors import DataError
from tunewright.types import Conversation, Message, SourceRef, TextRow, ToolCall

SOURCE = SourceRef("a.jsonl", 7)
WEATHER = {"name": "weather", "description": "now", "parameters": {"type": "object", "properties": {}}}
WRAPPED = {"type": "function", "function": WEATHER}
ASK, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"at":  1e2}'}}
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}


def parse(format_: str, **fields: object) -> Conversation | TextRow:
    return parse_row(RawRow(fields, SOURCE), format_)


def chat(*turns: dict[str, object], **fields: object) -> tuple[Message, ...]:
    return parse("messages", messages=list(turns), **fields).messages


def refused(format_: str, columnar: bool = False, **fields: object) -> DataError:
    with pytest.raises(DataError) as caught:
        parse_row(RawRow(fields, SOURCE, columnar), format_)
    assert caught.value.where == "a.jsonl:7"
    return caught.value


def test_every_format_of_the_schema_is_in_the_table() -> None:
    names = get_args(SourceConfig.model_fields["format"].annotation)
    assert set(names) == {"auto", *FORMATS}


def test_alpaca() -> None:
    row = parse("alpaca", instruction="Add", input="1 2", output="3", system="s", history=[["h", "i"]])
    assert row.source == SOURCE
    assert [(m.role, m.content) for m in row.messages] == [
        ("system", "s"), ("user", "h"), ("assistant", "i"), ("user", "Add\n1 2"), ("assistant", "3"),
    ]  # fmt: skip
    bare = parse("alpaca", instruction="Add", input="", output=" 3", system="", history=[])
    assert [(m.role, m.content) for m in bare.messages] == [("user", "Add"), ("assistant", " 3")]
    assert parse("alpaca", instruction="Add", input=None, output=" 3").messages == bare.messages


def test_sharegpt_with_tools() -> None:
    turns = [
        HUMAN,
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"at":  1e2}}', "weight": 0},
        {"from": "observation", "value": "hot"},
        GPT,
    ]
    row = parse("sharegpt", conversations=turns, system="s", tools=json.dumps([WEATHER]))
    call = Message("assistant", "", weight=0.0, tool_calls=(ToolCall("weather", '{"at":  1e2}'),))
    assert row.messages == (
        Message("system", "s"), Message("user", "q"), call, Message("tool", "hot"), Message("assistant", "a"),
    )  # fmt: skip
    assert [json.loads(tool) for tool in row.tools] == [WRAPPED]


def test_a_sharegpt_turn_may_hold_several_calls_and_start_with_an_answer() -> None:
    value = '[{"name": "a", "arguments": {}}, {"name": "b", "arguments": "{\\"x\\": 1}"}]'
    turns = [GPT, {"from": "function_call", "value": value}]
    row = parse("sharegpt", conversations=turns)
    assert row.messages[1].tool_calls == (ToolCall("a", "{}"), ToolCall("b", '{"x": 1}'))


def test_messages_with_everything() -> None:
    turns = [
        {"role": "developer", "content": "s"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            "name": "Ann",
        },
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "hm", "weight": 0},
        {"role": "tool", "content": "hot", "tool_call_id": "c1"},
        {"role": "assistant", "content": "a", "weight": 1, "tool_calls": None, "refusal": None},
    ]
    row = parse("messages", messages=turns, tools=[WRAPPED], parallel_tool_calls=False)
    assert row.messages == (
        Message("system", "s"),
        Message("user", "ab", name="Ann"),
        Message("assistant", "", 0.0, "hm", (ToolCall("weather", '{"at":  1e2}', "c1"),)),
        Message("tool", "hot", tool_call_id="c1"),
        Message("assistant", "a", 1.0),
    )
    assert row.tools == (json.dumps(WRAPPED),)


def test_the_older_function_form_is_read_as_tools() -> None:
    turns = [
        ASK,
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "function", "name": "weather", "content": "hot"},
    ]
    row = parse("messages", messages=turns, functions=[WEATHER])
    assert row.messages[1].tool_calls == (ToolCall("weather", "{}"),)
    assert row.messages[2] == Message("tool", "hot", name="weather")
    assert [json.loads(tool) for tool in row.tools] == [WRAPPED]


@pytest.mark.parametrize("format_", ["messages", "sharegpt"])
def test_a_system_prompt_beside_the_turns_comes_first(format_: str) -> None:
    turns = {"messages": [ASK, ANSWER], "sharegpt": [HUMAN, GPT]}[format_]
    field = {"messages": "messages", "sharegpt": "conversations"}[format_]
    system = {"messages": {"role": "system", "content": "s"}, "sharegpt": {"from": "system", "value": "s"}}
    conversation = parse(format_, system="s", **{field: turns})
    assert conversation == parse(format_, **{field: [system[format_], *turns]})
    assert conversation == parse(format_, system="s", **{field: [system[format_], *turns]})
    assert refused(format_, system="other", **{field: [system[format_], *turns]}).code == "data.role-order"


def test_definitions_under_another_name_are_not_left_out() -> None:
    tools = [{"name": "weather"}]
    error = refused("messages", messages=[ASK, ANSWER], tools=None, tool_defs=tools)
    assert error.code == "data.wrong-type"
    assert "tools: tool_defs" in str(error.hint)
    assert parse("messages", messages=[ASK, ANSWER], tools=tools, tool_defs=tools).tools


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_has_several_names(key: str) -> None:
    assert chat(ASK, {**ANSWER, key: "hm"})[1].reasoning == "hm"
    assert chat(ASK, {**ANSWER, key: ""})[1].reasoning is None


@pytest.mark.parametrize(
    "definition", [json.dumps(WRAPPED, indent=1), '{ "name":"f","parameters":{"x":1.0e5} }']
)
def test_tools_keep_their_text(definition: str) -> None:
    (from_text,) = parse("messages", messages=[ASK, ANSWER], tools=f"[ {definition} ]").tools
    (from_list,) = parse("messages", messages=[ASK, ANSWER], tools=[definition]).tools
    assert from_text == from_list
    assert definition in from_text


def test_lists_may_be_json_text() -> None:
    assert chat(ASK, ANSWER) == parse("messages", messages=json.dumps([ASK, ANSWER]), tools="").messages


def test_prompt_and_completion_texts() -> None:
    assert parse("prompt_completion", prompt="p", completion="c").segments == (("p", 0.0), ("c", 1.0))
    assert parse("prompt_completion", prompt="", completion="c").segments == (("c", 1.0),)


def test_prompt_and_completion_messages_train_the_completion_only() -> None:
    row = parse("prompt_completion", prompt=[ASK, ANSWER, ASK], completion=[ANSWER], tools=[WRAPPED])
    assert [m.weight for m in row.messages] == [None, 0.0, None, None]
    assert row.tools


def test_raw_text() -> None:
    assert parse("text", text=" once ").segments == ((" once ", 1.0),)


BAD_ROWS = [
    ("alpaca", {"instruction": "q", "output": ""}, "data.no-answer", "`output` is empty"),
    ("alpaca", {"instruction": "q", "output": " \n"}, "data.no-answer", "`output`"),
    ("alpaca", {"instruction": "q"}, "data.missing-field", "`output` is missing, expected text"),
    ("alpaca", {"instruction": "q", "output": None}, "data.missing-field", "`output`"),
    ("alpaca", {"instruction": "q", "output": 3}, "data.wrong-type", "the number 3"),
    ("alpaca", {"instruction": ["q"], "output": "a"}, "data.wrong-type", "a list"),
    ("alpaca", {"instruction": "", "input": "", "output": "a"}, "data.empty-message", "turn 1"),
    ("alpaca", {"instruction": "q", "output": "a", "history": [["x"]]}, "data.wrong-type", "`history[0]`"),
    (
        "alpaca",
        {"instruction": "q", "output": "a", "history": [["x", 1]]},
        "data.wrong-type",
        "`history[0][1]`",
    ),
    ("sharegpt", {"conversations": []}, "data.empty-messages", "`conversations`"),
    ("sharegpt", {"conversations": [HUMAN]}, "data.no-answer", "got user"),
    ("sharegpt", {"conversations": [HUMAN, {"from": "bot", "value": "a"}]}, "data.unknown-role", "'bot'"),
    (
        "sharegpt",
        {"conversations": [HUMAN, {"from": "gpt", "value": None}]},
        "data.missing-field",
        "[1].value",
    ),
    ("sharegpt", {"conversations": [HUMAN, {"from": "gpt", "value": ""}]}, "data.no-answer", "turn 2"),
    ("sharegpt", {"conversations": "nope"}, "data.wrong-type", "JSON list"),
    ("sharegpt", {"conversations": {}}, "data.wrong-type", "a list"),
    ("sharegpt", {"conversations": [HUMAN, "gpt"]}, "data.wrong-type", "`conversations[1]`"),
    (
        "sharegpt",
        {"conversations": [HUMAN, {"from": "tool", "value": "x"}, GPT]},
        "data.role-order",
        "turn 2",
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "system", "value": "s"}, HUMAN, GPT], "system": "t"},
        "data.role-order",
        "`system`",
    ),
    ("messages", {"messages": []}, "data.empty-messages", "`messages`"),
    ("messages", {"messages": [ASK]}, "data.no-answer", "assistant"),
    ("messages", {"messages": [{**ASK, "role": "bot"}, ANSWER]}, "data.unknown-role", "`messages[0].role`"),
    ("messages", {"messages": [{**ASK, "content": " "}, ANSWER]}, "data.empty-message", "turn 1"),
    ("messages", {"messages": [ASK, {**ANSWER, "content": None}]}, "data.missing-field", "content"),
    ("messages", {"messages": [ASK, {**ANSWER, "weight": 0.5}]}, "data.bad-weight", "got 0.5"),
    ("messages", {"messages": [ASK, {**ANSWER, "weight": True}]}, "data.wrong-type", "true"),
    ("messages", {"messages": [ASK, {**ANSWER, "weight": "1"}]}, "data.wrong-type", "weight"),
    ("messages", {"messages": [ASK, {**ANSWER, "train": "false"}]}, "data.wrong-type", "train"),
    ("messages", {"messages": [ASK, {**ANSWER, "loss": 2}]}, "data.bad-weight", "got 2"),
    ("messages", {"messages": [ASK, {**ANSWER, "loss": []}]}, "data.wrong-type", "loss"),
    ("messages", {"messages": [ASK, {**ANSWER, "train": True, "weight": 0}]}, "data.bad-weight", "disagree"),
    ("messages", {"messages": [ASK, {**ANSWER, "train_detail": []}]}, "data.bad-weight", "train_detail"),
    ("messages", {"messages": [ASK, {**ANSWER, "mask": False}]}, "data.bad-weight", "mask"),
    ("messages", {"messages": [{**ASK, "train": True}, ANSWER]}, "data.bad-weight", "user turn"),
    ("messages", {"messages": [{**ASK, "weight": 1}, ANSWER]}, "data.bad-weight", "user turn"),
    ("messages", {"messages": [{**ASK, "thinking": "x"}, ANSWER]}, "data.role-order", "user turn"),
    (
        "messages",
        {"messages": [ASK, {**ANSWER, "thinking": "x", "reasoning": "y"}]},
        "data.wrong-type",
        "two",
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]},
        "data.not-text",
        "'image_url'",
    ),
    ("messages", {"messages": [{"role": "tool", "content": "x"}, ANSWER]}, "data.role-order", "turn 1"),
    (
        "messages",
        {
            "messages": [
                ASK,
                {**ANSWER, "tool_calls": [CALL]},
                {"role": "tool", "content": "x", "tool_call_id": "c2"},
            ]
        },
        "data.role-order",
        "'c2'",
    ),
    (
        "messages",
        {"messages": [ASK, ANSWER], "tools": [WEATHER], "functions": [WEATHER]},
        "data.wrong-type",
        "tools",
    ),
    ("prompt_completion", {"prompt": "p", "completion": ""}, "data.no-answer", "`completion`"),
    ("prompt_completion", {"prompt": [ASK], "completion": "c"}, "data.wrong-type", "`completion`"),
    ("prompt_completion", {"prompt": [ASK, ANSWER], "completion": [ASK]}, "data.no-answer", "`completion`"),
    ("prompt_completion", {"prompt": 1, "completion": "c"}, "data.wrong-type", "`prompt`"),
    ("text", {"text": "  "}, "data.no-answer", "`text`"),
    ("text", {"text": {"a": 1}}, "data.wrong-type", "an object"),
    ("text", {"text": b"x"}, "data.wrong-type", "type bytes"),
]


@pytest.mark.parametrize(("format_", "fields", "code", "words"), BAD_ROWS)
def test_bad_rows_are_named(format_: str, fields: dict[str, object], code: str, words: str) -> None:
    error = refused(format_, **fields)
    assert error.code == code
    assert words in str(error)


@pytest.mark.parametrize(
    "tools",
    [
        "{", "{}", "3", [3], [[]], ["nope"], [{"description": "no name"}], [{"name": ""}], [{"name": 3}],
        [{"type": "function", "function": "f"}], [{"type": "function", "function": {}}],
        [{"name": "f", "parameters": []}], ['{"name": "f", "name": "g"}'], ['{"name": NaN}'],
    ],
)  # fmt: skip
def test_bad_tools_are_named(tools: object) -> None:
    error = refused("messages", messages=[ASK, ANSWER], tools=tools)
    assert error.code in ("data.bad-tool-json", "data.wrong-type", "data.missing-field")
    assert "tools" in error.what


@pytest.mark.parametrize("arguments", ["", "[]", "{", '{"a": 1, "a": 2}', '{"a": NaN}', "3", 3, [1], None])
def test_bad_arguments_are_named(arguments: object) -> None:
    call = {"function": {"name": "f", "arguments": arguments}}
    error = refused("messages", messages=[ASK, {"role": "assistant", "tool_calls": [call]}])
    assert error.code in ("data.bad-tool-json", "data.wrong-type", "data.missing-field")
    assert "tool_calls[0].function.arguments" in error.what


@pytest.mark.parametrize(
    "value",
    ["go", "", "3", "[]", "[3]", '{"name": "f"}', '{"arguments": {}}', '{"name": "f", "arguments": 3}'],
)
def test_bad_function_calls_are_named(value: str) -> None:
    error = refused("sharegpt", conversations=[HUMAN, {"from": "function_call", "value": value}])
    assert "conversations[1].value" in error.what


def test_arguments_given_as_an_object_keep_order() -> None:
    call = {"function": {"name": "f", "arguments": {"b": 1, "a": [None, "é"]}}}
    messages = chat(ASK, {"role": "assistant", "content": "", "tool_calls": [call]})
    assert messages[1].tool_calls[0].arguments == '{"b": 1, "a": [null, "é"]}'


def test_nested_columns_of_parquet_cannot_hold_tools() -> None:
    error = refused("messages", True, messages=[ASK, ANSWER], tools=[{"name": "f", "parameters": None}])
    assert error.code == "data.bad-tool-json"
    assert "JSON text" in str(error)


def test_rows_with_media_are_refused() -> None:
    assert refused("messages", messages=[ASK, ANSWER], images=["a.png"]).code == "data.not-text"
    assert chat(ASK, ANSWER, images=[])


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"instruction": "", "output": "", "text": "both"}, "alpaca"),
        ({"conversations": [], "tools": ""}, "sharegpt"),
        ({"messages": [], "id": 1}, "messages"),
        ({"prompt": "", "completion": ""}, "prompt_completion"),
        ({"text": "a", "meta": {}}, "text"),
    ],
)
def test_the_format_is_found_by_keys(fields: dict[str, object], name: str) -> None:
    other = RawRow({"id": 1}, SOURCE)
    assert detect_format([other, RawRow(fields, SOURCE), other]) == name


def test_mixed_formats_are_refused() -> None:
    rows = [
        RawRow({"messages": []}, SOURCE),
        RawRow({"instruction": "", "output": ""}, SourceRef("a.jsonl", 9)),
    ]
    with pytest.raises(DataError) as caught:
        detect_format(rows)
    assert caught.value.code == "data.ambiguous-format"
    assert "messages (a.jsonl:7) and alpaca (a.jsonl:9)" in str(caught.value)


def test_an_unknown_format_lists_what_was_seen_and_expected() -> None:
    with pytest.raises(DataError) as caught:
        detect_format([RawRow({"question": "q", "answer": "a"}, SOURCE)])
    message = str(caught.value)
    assert "question, answer" in message
    assert all(f"{name}: " in message for name in FORMATS)
    assert "columns" in message


def test_rows_inside_a_wrapper_are_pointed_out() -> None:
    with pytest.raises(DataError, match="inside `data`"):
        detect_format([RawRow({"data": [{"text": "a"}]}, SOURCE)])
    with pytest.raises(DataError, match="no keys at all"):
        detect_format([RawRow({}, SOURCE)])


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"id": 1, "conversation": [ASK, ANSWER]}, "columns: {messages: conversation}"),
        ({"dialog": [HUMAN, GPT]}, "columns: {conversations: dialog}"),
        ({"conversation": [{"human": "q", "assistant": "a"}]}, "as two turns"),
    ],
)
def test_turns_under_another_key_come_with_the_mapping(fields: dict[str, object], hint: str) -> None:
    with pytest.raises(DataError) as caught:
        detect_format([RawRow(fields, SOURCE)])
    assert caught.value.code == "data.unknown-format"
    assert hint in str(caught.value.hint)


def test_turns_of_another_format_come_with_the_mapping() -> None:
    assert "{messages: conversations}" in str(refused("sharegpt", conversations=[ASK, ANSWER]).hint)
    assert "{conversations: messages}" in str(refused("messages", messages=[HUMAN, GPT]).hint)
    columns = {"messages": "conversations"}
    raw = RawRow({"conversations": [ASK, ANSWER]}, SOURCE)
    assert detect_format([raw], columns) == "messages"
    row = parse_row(raw, "messages", columns)
    assert isinstance(row, Conversation)
    assert row.messages == chat(ASK, ANSWER)


def test_arguments_that_are_encoded_twice_come_with_the_way_out() -> None:
    def error(arguments: str) -> DataError:
        call = {"function": {"name": "f", "arguments": arguments}}
        return refused("messages", messages=[ASK, {"role": "assistant", "tool_calls": [call]}])

    assert "decode it once" in str(error(json.dumps(json.dumps({"a": 1}))).hint)
    assert "{}" in str(error("null").hint)
    assert error("[1]").hint is None
