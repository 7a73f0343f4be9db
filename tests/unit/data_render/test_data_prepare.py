from __future__ import annotations

import json
from pathlib import Path

import pytest

from chat_tokenizers import CHATML, write_tokenizer
from tunewright.config.schema import DataConfig
from tunewright.data.prepare import prepare_data, survey_data
from tunewright.data.prepared import Extent, PreparedData
from tunewright.data.templates import ChatTokenizer, load_tokenizer
from tunewright.errors import DataError, ModelError

LONG = "word " * 60


@pytest.fixture
def tokenizer(tmp_path: Path) -> ChatTokenizer:
    return load_tokenizer(write_tokenizer(tmp_path / "model", CHATML), None)


def write_rows(path: Path, *answers: str | None) -> str:
    """A messages file with one row an answer; None writes a row without an answer."""
    rows: list[dict[str, object]] = []
    for number, answer in enumerate(answers):
        messages = [{"role": "user", "content": f"Question {number}?"}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        rows.append({"messages": messages})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path.name


def survey(folder: Path, tokenizer: ChatTokenizer, *answers: str | None, **values: object) -> PreparedData:
    path = write_rows(folder / "rows.jsonl", *answers)
    data = DataConfig.model_validate({"train": path, "eval": 0.0, "seq_len": 64, **values})
    return survey_data(data, tokenizer, folder, seed=0)


def check_sums(prepared: PreparedData) -> None:
    report = prepared.report
    parts = (report.rows_kept, report.rows_cut, report.rows_split, report.rows_dropped, report.rows_bad)
    assert report.rows_checked == report.rows_read == sum(parts)


def test_every_row_is_accounted_for(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    prepared = survey(tmp_path, tokenizer, "a", "b", "a", eval=0.3)
    report = prepared.report
    check_sums(prepared)
    assert (report.rows_read, report.rows_kept, report.train_rows, report.eval_rows) == (3, 3, 2, 1)
    assert report.sources[0].format == "messages"
    examples = [example for rows, _ in prepared.train_sources for example in rows.known()]
    everything = [*examples, *prepared.eval_examples]
    assert report.tokens == sum(len(example) for example in everything)
    assert report.trained_tokens == sum(int((e.weights_T > 0).sum()) for e in everything)
    assert sum(bucket.examples for bucket in report.lengths) == 3
    assert 0 < report.trained_share < 1
    largest = max(int(example.tokens_T.max()) for example in everything)
    assert prepared.extent == Extent(max(map(len, everything)), largest)


@pytest.mark.parametrize(
    ("rule", "counts"),
    [("truncate", (1, 1, 0, 0)), ("split", (1, 0, 1, 0)), ("drop", (1, 0, 0, 1))],
)
def test_long_rows_are_counted_with_their_lines(
    tmp_path: Path, tokenizer: ChatTokenizer, rule: str, counts: tuple[int, ...]
) -> None:
    prepared = survey(tmp_path, tokenizer, "short", LONG, overlong=rule)
    report = prepared.report
    check_sums(prepared)
    assert (report.rows_kept, report.rows_cut, report.rows_split, report.rows_dropped) == counts
    (finding,) = report.findings
    assert finding.where == ("rows.jsonl:2",)
    assert not report.errors


def test_a_row_cut_before_its_answer_is_dropped(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    row = {"messages": [{"role": "user", "content": LONG}, {"role": "assistant", "content": "a"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    data = DataConfig(train="rows.jsonl", eval=0.0, seq_len=64, overlong="truncate")  # type: ignore[arg-type]
    report = survey_data(data, tokenizer, tmp_path, seed=0).report
    assert report.rows_dropped == 1
    assert "no trained token within" in report.findings[0].what
    with pytest.raises(DataError, match="no row is left"):
        prepare_data(data, tokenizer, tmp_path, seed=0)


def test_all_faults_come_in_one_error_with_lines(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    path = write_rows(tmp_path / "rows.jsonl", "fine", *[LONG] * 12)
    data = DataConfig(train=path, seq_len=64)  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        prepare_data(data, tokenizer, tmp_path, seed=0)
    text = str(caught.value)
    assert text.startswith("12 bad rows of 13")
    assert "rows.jsonl:2: the row is too long" in text
    assert "rows.jsonl:11:" in text
    assert "rows.jsonl:12:" not in text
    assert "and 2 more" in text
    assert text.count("hint:") == 1
    assert caught.value.code == "data.overlong"


def test_faults_of_reading_and_of_rendering_are_reported_together(
    tmp_path: Path, tokenizer: ChatTokenizer
) -> None:
    write_rows(tmp_path / "rows.jsonl", "fine", LONG)
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    data = DataConfig(train="rows.jsonl", eval=0.0, seq_len=64)  # type: ignore[arg-type]
    prepared = survey_data(data, tokenizer, tmp_path, seed=0)
    check_sums(prepared)
    assert prepared.report.rows_bad == 2
    assert {place for finding in prepared.report.errors for place in finding.where} == {
        "rows.jsonl:2",
        "rows.jsonl:3",
    }
    with pytest.raises(DataError, match="2 bad rows of 3"):
        prepare_data(data, tokenizer, tmp_path, seed=0)


def test_the_report_lists_twenty_places_and_counts_all(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    report = survey(tmp_path, tokenizer, *[LONG] * 30).report
    (finding,) = report.errors
    assert (finding.count, len(finding.where)) == (30, 20)
    assert finding.places().startswith("rows.jsonl: 1, 2, 3")
    assert finding.places().endswith("20 … and 10 more")


def test_duplicates_are_counted_and_never_leak_into_the_held_out_rows(
    tmp_path: Path, tokenizer: ChatTokenizer
) -> None:
    user = {"role": "user", "content": "q"}
    rows = [{"messages": [user, {"role": "assistant", "content": str(n % 5)}]} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = DataConfig(train="rows.jsonl", eval=0.2)  # type: ignore[arg-type]
    prepared = survey_data(data, tokenizer, tmp_path, seed=0)
    assert prepared.report.duplicate_rows == 15
    train = {example.tokens_T.tobytes() for rows, _ in prepared.train_sources for example in rows.known()}
    assert not train & {example.tokens_T.tobytes() for example in prepared.eval_examples}


def test_an_eval_file_has_the_columns_of_the_training_data(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    rows = [{"question": f"q{n}?", "answer": f"a{n}"} for n in range(4)]
    for name, part in (("rows.jsonl", rows[:3]), ("held.jsonl", rows[3:])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    source = {"path": "rows.jsonl", "columns": {"instruction": "question", "output": "answer"}}
    data = DataConfig.model_validate({"train": source, "eval": "held.jsonl"})
    prepared = prepare_data(data, tokenizer, tmp_path, seed=0)
    assert (prepared.report.train_rows, prepared.report.eval_rows) == (3, 1)
    (tmp_path / "plain.jsonl").write_text('{"text": "words"}\n', encoding="utf-8")
    mixed = DataConfig.model_validate({"train": [source, "plain.jsonl"], "eval": "plain.jsonl"})
    assert prepare_data(mixed, tokenizer, tmp_path, seed=0).report.eval_rows == 1


def test_an_eval_file_is_read_whole_and_its_leak_is_named(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    write_rows(tmp_path / "held.jsonl", "a", "other")
    prepared = survey(tmp_path, tokenizer, "a", "b", eval="held.jsonl")
    assert (prepared.report.train_rows, prepared.report.eval_rows) == (2, 2)
    (leak,) = [finding for finding in prepared.report.findings if finding.code == "data.eval-leak"]
    assert leak.first == "held.jsonl:1 repeats rows.jsonl:1"


def test_sources_keep_their_weights(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    write_rows(tmp_path / "more.jsonl", "c")
    write_rows(tmp_path / "rows.jsonl", "a", "b")
    sources = [{"path": "rows.jsonl"}, {"path": "more.jsonl", "weight": 3}]
    data = DataConfig.model_validate({"train": sources, "eval": 0.0})
    prepared = prepare_data(data, tokenizer, tmp_path, seed=0)
    assert [(len(examples), weight) for examples, weight in prepared.train_sources] == [(2, 1.0), (1, 3.0)]


def test_what_templates_leave_unsaid_is_a_warning_with_its_count(tmp_path: Path) -> None:
    template = CHATML.replace("<|im_end|>", "")
    template = template.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
    tokenizer = load_tokenizer(write_tokenizer(tmp_path / "open", template), None)
    report = survey(tmp_path, tokenizer, "a", "b").report
    assert report.missing_end_of_turn == 2
    assert {finding.code for finding in report.findings} == {"data.no-end-of-turn", "data.shifted-prompt"}


def test_a_model_without_template_fails_once_not_per_row(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path / "bare", None), None)
    with pytest.raises(ModelError, match="no chat template"):
        survey(tmp_path, tokenizer, "a")


def test_the_report_is_json_and_text(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    report = survey(tmp_path, tokenizer, "a", LONG).report
    report.write(tmp_path / "data_report.json")
    read = json.loads((tmp_path / "data_report.json").read_text(encoding="utf-8"))
    assert read["ok"] is False
    assert read["rows_bad"] == 1
    assert read["findings"][0]["where"] == ["rows.jsonl:2"]
    assert "rows read: 2" in report.text()
    assert "error: rows above data.seq_len: 1 (rows.jsonl: 2)" in report.text()


def test_an_empty_tally_has_no_buckets() -> None:
    from tunewright.data.report import Tally

    assert Tally().buckets() == ()


def test_rows_that_the_template_refuses_or_thins_out_are_counted(tmp_path: Path) -> None:
    refuse = "{% if messages[0].content == 'Question 1?' %}{{ raise_exception('not this one') }}{% endif %}"
    template = refuse + CHATML.replace("message.content", "message.content | replace('lost', '')")
    tokenizer = load_tokenizer(write_tokenizer(tmp_path / "picky", template), None)
    prepared = survey(tmp_path, tokenizer, "a", "b", "lost words")
    check_sums(prepared)
    assert prepared.report.content_dropped == 1
    (refused, dropped, _) = prepared.report.findings
    assert (refused.what, refused.where) == ("rows that the chat template refuses", ("rows.jsonl:2",))
    assert dropped.first == "rows.jsonl:3: content of turn 2 (assistant)"


def test_unreadable_rows_beyond_those_listed_still_count(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    write_rows(tmp_path / "rows.jsonl", "fine")
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n" * 1005)
    data = DataConfig(train="rows.jsonl", eval=0.0)  # type: ignore[arg-type]
    prepared = survey_data(data, tokenizer, tmp_path, seed=0)
    check_sums(prepared)
    assert prepared.report.rows_bad == 1005
    with pytest.raises(DataError, match="1005 bad rows of 1006"):
        prepare_data(data, tokenizer, tmp_path, seed=0)
