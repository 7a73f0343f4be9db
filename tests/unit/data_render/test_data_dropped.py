"""What a chat template leaves out of a row is found within the turn it belongs to."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from chat_tokenizers import CHATML, write_tokenizer
from tunewright.config.schema import DataConfig
from tunewright.data.mask import render_row
from tunewright.data.prepare import survey_data
from tunewright.data.templates import ChatTokenizer, load_tokenizer
from tunewright.errors import DataError
from tunewright.types import Conversation, Message, SourceRef, ToolCall

_TRL = importlib.util.find_spec("trl")
assert _TRL is not None
assert _TRL.origin is not None
TEMPLATES = Path(_TRL.origin).parent / "chat_templates"
TOOL = json.dumps({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}})
ASK = Message("user", "weather?")
CALL = ToolCall("weather", '{"city": "Oslo", "days": [2, 1.5], "deep": {"x": null}}', id="call00001")
RESULT = Message("tool", "sunny", tool_call_id="call00001", name="weather")


def of_family(folder: Path, family: str) -> ChatTokenizer:
    template = (TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")
    return load_tokenizer(write_tokenizer(folder / family, template), None)


def dropped(tokenizer: ChatTokenizer, *messages: Message, tools: tuple[str, ...] = ()) -> list[str]:
    row = Conversation(messages, tools, SourceRef("rows.jsonl", 1))
    return list(map(str, render_row(row, tokenizer, DataConfig(train="rows.jsonl")).dropped))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "family", ["qwen3", "qwen2_5", "llama3_1", "glm4moe", "gemma4", "nemotron_3_nano", "lfm2_v2"]
)
def test_nothing_is_missing_where_a_template_shows_all(tmp_path: Path, family: str) -> None:
    call = Message("assistant", "", tool_calls=(CALL,))
    said = (ASK, call, RESULT, Message("assistant", "Sunny."), ASK, call)
    assert dropped(of_family(tmp_path, family), *said, tools=(TOOL,)) == []


def test_a_call_is_looked_for_in_its_own_turn(tmp_path: Path) -> None:
    """Its name stands in the question, the answer, the definition and the first call too."""
    first = CHATML.replace(
        "message.content",
        "message.content ~ ((message.tool_calls | tojson) if message.tool_calls and loop.index == 2 else '')",
    )
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, "{{ tools | tojson if tools }}" + first), None)
    call = Message("assistant", "I ask weather-station.", tool_calls=(CALL,))
    assert dropped(tokenizer, ASK, call, RESULT, call, tools=(TOOL,)) == [
        "tool call weather of turn 4 (assistant)"
    ]
    twice = Message("assistant", "weather", tool_calls=(CALL, CALL))
    assert dropped(tokenizer, ASK, twice, tools=(TOOL,)) == []


def test_arguments_and_results_names_and_definitions_are_looked_for(tmp_path: Path) -> None:
    template = (
        "{% for m in messages if m.role != 'tool' %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments.city }}){% endfor %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, template), None)
    call = Message("assistant", "", tool_calls=(CALL,))
    named = Message("user", "Hi", name="Alice")
    assert dropped(tokenizer, named, call, RESULT, Message("assistant", "Fine."), tools=(TOOL,)) == [
        "name of turn 1 (user)",
        "tool arguments of weather of turn 2 (assistant)",
        "tool result of turn 3 (tool)",
        "tool weather",
    ]


def test_reasoning_inside_the_content_is_looked_for(tmp_path: Path) -> None:
    said = (
        ASK,
        Message("assistant", "<think>\neasy\n</think>\n\n4"),
        ASK,
        Message("assistant", "more</think>6"),
    )
    reasoning = ["reasoning of turn 2 (assistant)", "reasoning of turn 4 (assistant)"]
    assert dropped(of_family(tmp_path, "deepseek_r1_distill"), *said) == reasoning
    # The last turn shows it, and each turn is trained as the last one.
    assert dropped(of_family(tmp_path, "qwen3"), *said) == []


@pytest.mark.parametrize(
    ("family", "turn"),
    [
        ("llama3", Message("assistant", "", tool_calls=(CALL,))),
        ("phi3", Message("assistant", " \n", tool_calls=(CALL,))),
        ("deepseek_r1_distill", Message("assistant", "<think>only this</think>")),
    ],
)
def test_an_empty_turn_is_not_trained_as_an_answer(tmp_path: Path, family: str, turn: Message) -> None:
    tokenizer = of_family(tmp_path, family)
    with pytest.raises(DataError, match="leaves turn 2 empty") as caught:
        dropped(tokenizer, ASK, turn, tools=(TOOL,))
    assert caught.value.code == "data.turn-dropped"
    # Out of the loss, it is what inference sees.
    untrained = Message("assistant", turn.content, weight=0.0, tool_calls=turn.tool_calls)
    assert "(assistant)" in dropped(tokenizer, ASK, untrained, ASK, Message("assistant", "Yes."))[0]


def test_the_report_counts_rows_by_kind(tmp_path: Path) -> None:
    thought = {"role": "assistant", "content": "<think>a</think>b"}
    named = {"role": "user", "content": "q", "name": "Al"}
    rows = [
        [named, thought],
        [named, {"role": "assistant", "content": "b"}],
        [named | {"name": None}, thought],
    ]
    text = "".join(json.dumps({"messages": row}) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    data = DataConfig(train="rows.jsonl", eval=0.0)  # type: ignore[arg-type]
    report = survey_data(data, of_family(tmp_path, "deepseek_r1_distill"), tmp_path, seed=0).report
    assert report.content_dropped == 3
    found = {finding.code: (finding.count, finding.where) for finding in report.findings}
    assert found["data.dropped-reasoning"] == (2, ("rows.jsonl:1", "rows.jsonl:3"))
    assert found["data.dropped-name"] == (2, ("rows.jsonl:1", "rows.jsonl:2"))
