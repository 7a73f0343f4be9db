"""Rows and turns that must not be learned: refused by name, or kept out of the loss."""

import pytest

from tunewright.data.formats import detect_format, parse_row
from tunewright.data.raw_row import RawRow
from tunewright.errors import DataError
from tunewright.types import Conversation, SourceRef, TextRow

SOURCE = SourceRef("a.jsonl", 3)
ASK, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}


def refused(format_: str, **fields: object) -> DataError:
    with pytest.raises(DataError) as caught:
        parse_row(RawRow(fields, SOURCE), format_)
    return caught.value


@pytest.mark.parametrize(
    "fields",
    [
        {"conversations": [HUMAN], "chosen": GPT, "rejected": GPT},
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"input": {}, "preferred_output": [], "non_preferred_output": []},
        {"messages": [ASK, ANSWER], "kto_tag": True},
        {"prompt": "p", "completion": "c", "label": False},
        {"messages": [ASK, ANSWER], "label": True},
        {"conversations": [HUMAN, GPT], "label": "False"},
        {"instruction": "a", "output": "b", "label": 0},
        {"text": "a", "label": False},
        {"messages": [ASK, ANSWER], "rejected_response": "b"},
        {"messages": [ASK, ANSWER], "rejected": [ASK, ANSWER]},
        {"instruction": "a", "output": "b", "is_correct": False},
        {"messages": [ASK, ANSWER], "labels": [True, False]},
    ],
)
def test_preference_rows_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(DataError, match="preference") as caught:
        detect_format([RawRow(fields, SOURCE)])
    assert caught.value.code == "data.preference"
    assert refused("sharegpt", **fields).code == "data.preference"


@pytest.mark.parametrize("label", ["news", 3, None])
def test_a_label_that_is_no_verdict_is_left_alone(label: object) -> None:
    fields = {"prompt": "p", "completion": "c", "label": label, "rejected": None, "train": 0.93, "weight": 1}
    assert detect_format([RawRow(fields, SOURCE)]) == "prompt_completion"
    assert detect_format([RawRow({"text": "a", "label": 0}, SOURCE)]) == "text"


def test_a_turn_with_a_verdict_is_refused() -> None:
    assert refused("messages", messages=[ASK, {**ANSWER, "label": False}]).code == "data.preference"


def test_the_better_answer_can_be_mapped_though_the_worse_one_stands_beside_it() -> None:
    raw = RawRow({"prompt": "p", "chosen": "a", "rejected": "b"}, SOURCE)
    row = parse_row(raw, "prompt_completion", {"completion": "chosen"})
    assert row == TextRow((("p", 0.0), ("a", 1.0)), SOURCE)


@pytest.mark.parametrize(
    "flag", [{"train": False}, {"loss": "false"}, {"weight": 0}, {"loss_weight": "0"}, {"sample_weight": 0.5}]
)
def test_a_row_that_is_not_to_be_trained_is_refused(flag: dict[str, object]) -> None:
    assert refused("messages", messages=[ASK, ANSWER], **flag).code == "data.row-weight"
    assert refused("alpaca", instruction="a", output="b", **flag).code == "data.row-weight"


@pytest.mark.parametrize("name", ["train", "training", "loss", "loss_weight", "loss_scale", "weight"])
def test_flags_of_other_tools_keep_a_turn_out_of_the_loss(name: str) -> None:
    is_flag = name in ("train", "training", "loss")
    off, on = (False, True) if is_flag else (0.0, 1.0)
    turns = [
        {**ASK, name: off},
        {**ANSWER, name: off},
        ASK,
        {**ANSWER, name: on},
        ASK,
        {**ANSWER, name: None},
    ]
    row = parse_row(RawRow({"messages": turns}, SOURCE), "messages")
    assert isinstance(row, Conversation)
    assert [message.weight for message in row.messages] == [None, 0.0, None, 1.0, None, None]
    talk = [{**HUMAN, name: off}, {**GPT, name: off}, HUMAN, {**GPT, name: on}]
    parsed = parse_row(RawRow({"conversations": talk}, SOURCE), "sharegpt")
    assert isinstance(parsed, Conversation)
    assert [message.weight for message in parsed.messages] == [None, 0.0, None, 1.0]
