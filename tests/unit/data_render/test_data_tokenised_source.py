"""Rows from the cache or from worker processes are the rows that one process makes one after the other."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat_tokenizers import CHATML, write_tokenizer
from tunewright.config.schema import DataConfig, SourceConfig
from tunewright.data import tokenise, tokenised_source, unread_rows
from tunewright.data.example_rows import MemoryRows
from tunewright.data.row_survey import RowSurvey
from tunewright.data.rows import read_rows
from tunewright.data.table_rows import TableRows
from tunewright.data.templates import ChatTokenizer, load_tokenizer
from tunewright.data.token_table import DamagedTable, TokenTable, map_table, parse_table
from tunewright.data.tokenise import SourceTokens
from tunewright.data.tokenised_source import ignore, open_tokenised
from tunewright.errors import DataError, ModelError
from tunewright.types import Example

LONG = "word " * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenised")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> ChatTokenizer:
    return load_tokenizer(write_tokenizer(folder / "model", CHATML), None)


@pytest.fixture(autouse=True)
def keep_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own that takes the smallest source."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokenised_source, "CACHED_ABOVE_BYTES", 0)
    monkeypatch.setattr(unread_rows, "CHUNK_ROWS", 3)
    return tmp_path / "cache" / "data"


def chat(*turns: str) -> str:
    roles = ("user", "assistant")
    return json.dumps({"messages": [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)]})


def write(folder: Path, *lines: str) -> SourceConfig:
    (folder / "rows.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return SourceConfig(path="rows.jsonl")


def config(**values: object) -> DataConfig:
    return DataConfig.model_validate({"train": "rows.jsonl", "seq_len": 64, "overlong": "split", **values})


def examples_of(table: TokenTable) -> list[tuple[Example, ...]]:
    return [table.row(number) for number in range(len(table))]


def plain(rows: list[tuple[Example, ...]]) -> list[list[tuple[object, ...]]]:
    return [[(e.source, e.tokens_T.tolist(), e.weights_T.tolist()) for e in row] for row in rows]


def one_by_one(
    source: SourceConfig, data: DataConfig, tokenizer: ChatTokenizer, folder: Path
) -> tuple[list[tuple[Example, ...]], RowSurvey]:
    """The rows without table, chunks and processes."""
    survey, read = RowSurvey(data, tokenizer), read_rows(source, folder)
    for error in read.bad:
        survey.add_error(error)
    if unlisted := read.bad_count - len(read.bad):
        survey.add_unlisted_errors(source.path, unlisted)
    return [examples for row in read.rows if (examples := survey.take(row))], survey


def report_of(survey: RowSurvey) -> dict[str, Any]:
    report = survey.report([], train_rows=0, eval_rows=0, duplicate_rows=None)
    return {**report.to_json(), "messages": [str(error) for error in survey.errors]}


def check_same(table: TokenTable, rows: list[tuple[Example, ...]], survey: RowSurvey) -> None:
    assert plain(examples_of(table)) == plain(rows)
    counted = RowSurvey(survey.data, survey.tokenizer)
    counted.add_json(table.facts["counts"])
    assert report_of(counted) == report_of(survey)


LINES = st.one_of(
    st.lists(st.text(max_size=30), min_size=2, max_size=5).map(lambda turns: chat(*turns)),
    st.just(chat("q", LONG)),
    st.just(chat(LONG, "a")),
    st.sampled_from(["{broken", chat("no answer"), '{"other": 1}', "7", chat("q", "a")]),
)


@cache
def shared_tokenizer(folder: Path) -> ChatTokenizer:
    return load_tokenizer(folder / "model", None)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(LINES, min_size=1, max_size=14),
    overlong=st.sampled_from(["error", "truncate", "split", "drop"]),
    train_on=st.sampled_from(["assistant", "last_assistant", "all"]),
)
def test_rows_and_report_are_those_made_one_by_one(
    folder: Path, tokenizer: ChatTokenizer, lines: list[str], overlong: str, train_on: str
) -> None:
    source = write(folder, chat("first", "row"), *lines)
    data = config(overlong=overlong, train_on=train_on)
    rows, survey = one_by_one(source, data, tokenizer, folder)
    for _ in ("made", "found"):
        check_same(open_tokenised(source, data, tokenizer, folder, ignore), rows, survey)


def test_worker_processes_change_nothing(folder: Path, tokenizer: ChatTokenizer) -> None:
    lines = [chat(f"question {n}", "answer " * (1 + n % 20)) for n in range(40)]
    lines[7], lines[33] = "{broken", chat("q", "a").replace('"a"', '"a", "weight": 0')
    source = write(folder, *lines)
    rows, survey = one_by_one(source, config(), tokenizer, folder)
    table = parse_table(b"".join(SourceTokens(source, config(), tokenizer, folder, 2).iter_table()))
    check_same(table, rows, survey)
    assert {error["code"] for error in table.facts["counts"]["errors"]} == {
        "data.broken-json",
        "data.no-trained-token",
    }


def test_unlisted_faults_count(folder: Path, tokenizer: ChatTokenizer) -> None:
    source = write(folder, chat("q", "a"), *["{broken"] * 1003)
    rows, survey = one_by_one(source, config(), tokenizer, folder)
    check_same(open_tokenised(source, config(), tokenizer, folder, ignore), rows, survey)


def test_a_second_run_finds_the_tokens(tmp_path: Path, tokenizer: ChatTokenizer, keep_all: Path) -> None:
    source = write(tmp_path, chat("q", "a"), chat("q", "b"))
    first = open_tokenised(source, config(), tokenizer, tmp_path, ignore)
    (kept,) = keep_all.glob("*.tokens")
    before = kept.stat()
    second = open_tokenised(source, config(), tokenizer, tmp_path, ignore)
    assert kept.stat().st_ino == before.st_ino
    assert plain(examples_of(first)) == plain(examples_of(second))
    assert not second.row(0)[0].tokens_T.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        second.words_W[0] = 0


def test_whatever_could_change_a_token_makes_another_file(
    tmp_path: Path, tokenizer: ChatTokenizer, keep_all: Path
) -> None:
    source = write(tmp_path, chat("q", "a"))

    def count(**values: Any) -> int:
        with_tokenizer = values.pop("tokenizer", tokenizer)
        with_source = values.pop("source", source)
        open_tokenised(with_source, config(**values), with_tokenizer, tmp_path, ignore)
        return len(list(keep_all.glob("*.tokens")))

    other = write_tokenizer(tmp_path / "other", CHATML, special=("<extra>",))
    template = tmp_path / "template.jinja"
    template.write_text(CHATML.replace("'\n'", "': '"), encoding="utf-8")
    assert count() == 1
    assert count(packing=False, window=7) == 1
    assert count(seq_len=32) == 2
    assert count(overlong="drop") == 3
    assert count(train_on="all") == 4
    assert count(thinking="drop") == 5
    assert count(tokenizer=load_tokenizer(tmp_path / "other", None)) == 6
    assert count(tokenizer=load_tokenizer(other, template)) == 7
    assert count(source=SourceConfig(path="rows.jsonl", format="messages")) == 8
    write(tmp_path, chat("q", "b"))
    assert count() == 9
    assert [row[0].tokens_T.tolist() for row in examples_of(map_table(next(keep_all.glob("*.tokens"))))]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), cut=st.booleans())
def test_a_damaged_file_is_never_trusted(
    folder: Path, tokenizer: ChatTokenizer, keep_all: Path, place: float, cut: bool
) -> None:
    source = write(folder, chat("q", "a"), chat("long", LONG))
    rows, survey = one_by_one(source, config(), tokenizer, folder)
    open_tokenised(source, config(), tokenizer, folder, ignore)
    (kept,) = keep_all.glob("*.tokens")
    content = bytearray(kept.read_bytes())
    at = int(place * len(content))
    content[at] ^= 1
    kept.write_bytes(content[:at] if cut else content)
    said: list[str] = []
    check_same(open_tokenised(source, config(), tokenizer, folder, said.append), rows, survey)
    assert len(said) == 1
    assert "is damaged" in said[0]
    check_same(open_tokenised(source, config(), tokenizer, folder, said.append), rows, survey)
    assert len(said) == 1


def test_a_buffer_of_another_size_is_no_table() -> None:
    with pytest.raises(DamagedTable, match="too short"):
        parse_table(b"abc")
    with pytest.raises(DamagedTable, match="another size"):
        parse_table(bytes(200))


def test_without_a_folder_to_write_to_rows_are_made_in_memory(
    tmp_path: Path, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "file"))
    source = write(tmp_path, chat("q", "a"))
    said: list[str] = []
    assert len(open_tokenised(source, config(), tokenizer, tmp_path, said.append)) == 1
    assert len(said) == 1
    assert "rows.jsonl cannot be kept" in said[0]


def test_small_sources_leave_nothing_behind(
    tmp_path: Path, tokenizer: ChatTokenizer, keep_all: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenised_source, "CACHED_ABOVE_BYTES", 2**20)
    open_tokenised(write(tmp_path, chat("q", "a")), config(), tokenizer, tmp_path, ignore)
    assert not keep_all.exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_fault_of_the_model_comes_through_and_leaves_nothing(
    tmp_path: Path, keep_all: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenised_source, "choose_processes", lambda size: processes)
    bare = load_tokenizer(write_tokenizer(tmp_path / "bare", None), None)
    with pytest.raises(ModelError, match="no chat template"):
        open_tokenised(write(tmp_path, *[chat("q", "a")] * 9), config(), bare, tmp_path, ignore)
    assert [path.suffix for path in keep_all.iterdir()] == [".lock"]


def test_a_file_that_changes_meanwhile_is_refused(
    tmp_path: Path, keep_all: Path, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path, *[chat("q", "a")] * 40)
    read = tokenise.iter_chunks

    def read_and_append(path: Path, shown: str) -> Any:
        yield from read(path, shown)
        with path.open("a") as file:
            file.write("\n")

    monkeypatch.setattr(tokenise, "iter_chunks", read_and_append)
    with pytest.raises(DataError, match="changed") as caught:
        open_tokenised(source, config(), tokenizer, tmp_path, ignore)
    assert caught.value.code == "data.file-changed"
    assert not list(keep_all.glob("*.tokens"))


def test_the_digest_is_that_of_rows_in_memory(folder: Path, tokenizer: ChatTokenizer) -> None:
    source = write(folder, *(chat(f"q{n}", "a " * (1 + 9 * n)) for n in range(12)))
    table = open_tokenised(source, config(), tokenizer, folder, ignore)
    taken = [11, 2, 3, 7]
    rows = TableRows(table, np.array(taken))
    memory = MemoryRows([table.row(number) for number in taken])
    digests = [hashlib.sha256(), hashlib.sha256()]
    rows.update_digest(digests[0], 1.5)
    memory.update_digest(digests[1], 1.5)
    assert digests[0].hexdigest() == digests[1].hexdigest()
    assert rows.lengths().tolist() == memory.lengths().tolist()
    assert len(rows) == 4
    assert plain([rows.row(1)]) == plain([table.row(2)])


@pytest.mark.parametrize(
    ("size", "cores", "expected"), [(0, 8, 1), (2**24, 8, 2), (2**30, 8, 8), (2**30, 1, 1), (2**40, 99, 16)]
)
def test_processes_by_work_and_cores(
    size: int, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert tokenise.choose_processes(size) == expected


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    rows = [{"instruction": f"Say {n}.", "output": str(n) * (1 + n % 9)} for n in range(20)]
    (tmp_path / "lines.jsonl").write_text("\n \n".join(map(json.dumps, rows)))
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "array.json").write_text(json.dumps(rows))
    (tmp_path / "array.jsonl").write_text(json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["instruction", "output"])
        writer.writeheader()
        writer.writerows(rows)
    found: dict[str, list[Any]] = {}
    for name in ("lines.jsonl", "lines.json", "array.json", "array.jsonl", "rows.parquet", "rows.csv"):
        source, data = SourceConfig(path=name), config(train=name)
        table = parse_table(b"".join(SourceTokens(source, data, tokenizer, tmp_path, 1).iter_table()))
        check_same(table, *one_by_one(source, data, tokenizer, tmp_path))
        found[name] = [[e.tokens_T.tolist() for e in row] for row in examples_of(table)]
    assert all(tokens == found["lines.jsonl"] for tokens in found.values())
    source, data = SourceConfig(path="."), config(train=".")
    table = parse_table(b"".join(SourceTokens(source, data, tokenizer, tmp_path, 2).iter_table()))
    check_same(table, *one_by_one(source, data, tokenizer, tmp_path))
    assert len(table) == 120
    assert {table.source(row).path for row in range(120)} == set(found)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.jsonl", b"", "data.empty-file"),
        ("a.jsonl", b" \n\n", "data.empty-file"),
        ("a.json", b'{\n"text": "a"\n}', "data.broken-json"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "data.not-utf8"),
        ("a.jsonl", b'{"other": "a"}\n', "data.unknown-format"),
    ],
)
def test_faults_of_files_are_those_of_reading_them(
    tmp_path: Path, tokenizer: ChatTokenizer, name: str, content: bytes, code: str
) -> None:
    (tmp_path / name).write_bytes(content)
    source, data = SourceConfig(path=name), config(train=name)

    with pytest.raises(DataError) as expected:
        one_by_one(source, data, tokenizer, tmp_path)
    with pytest.raises(DataError) as caught:
        open_tokenised(source, data, tokenizer, tmp_path, ignore)
    assert (str(caught.value), caught.value.code) == (str(expected.value), code)


def test_a_broken_array_gives_the_rows_before(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    (tmp_path / "a.jsonl").write_text('[{"text": "a"}, {')
    source, data = SourceConfig(path="a.jsonl"), config(train="a.jsonl")
    rows, survey = one_by_one(source, data, tokenizer, tmp_path)
    assert len(rows) == len(survey.errors) == 1
    check_same(open_tokenised(source, data, tokenizer, tmp_path, ignore), rows, survey)


def test_a_chunk_ends_after_much_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread_rows, "CHUNK_BYTES", 100)
    write(tmp_path, chat("q", "a" * 200), chat("q", "a"), chat("q", "b"), chat("q", "c"))
    chunks = unread_rows.iter_chunks(tmp_path / "rows.jsonl", "rows.jsonl")
    assert [len(chunk) for chunk in chunks] == [1, 2, 1]
