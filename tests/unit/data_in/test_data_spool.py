from __future__ import annotations

import datetime
import json
from collections import namedtuple
from pathlib import Path

import pytest

from tunewright.config.schema import SourceConfig
from tunewright.data import cached_file
from tunewright.data.formats.field import describe
from tunewright.data.indexed_source import open_source
from tunewright.data.rows import open_rows
from tunewright.errors import DataError
from tunewright.types import Row

TEXTS = ("plain", 'two\nlines, "quotes" and a comma', "é 漢字 😀\u2028", "", " 1.10 ", "x" * 5000)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


def write_csv(path: Path) -> None:
    quoted = [f'"{text.replace(chr(34), chr(34) * 2)}",answer' for text in TEXTS]
    path.write_text("\ufeffinstruction,output\n" + "\n".join([*quoted, "one column", "q,last"]) + "\n")


def write_array(path: Path) -> None:
    call = {"name": "f", "arguments": {"x": 1.0}}
    rows: list[object] = [{"messages": [{"role": "user", "content": text or "?"}]} for text in TEXTS]
    rows += [{"messages": [{"role": "assistant", "content": "a", "tool_calls": [{"function": call}]}]}]
    text = json.dumps([*rows, 7, [8], {"messages": "none"}], indent=2, ensure_ascii=False)
    path.write_text(text.replace("1.0", "1.10").replace("  7,\n", ""))


def write_parquet(path: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rows = [
        {
            "messages": [
                {"role": "user", "content": text, "weight": None},
                {"role": "assistant", "content": "a", "weight": 1},
            ],
            "score": float("nan"),
            "when": datetime.datetime(2025, 1, 1),
        }
        for text in TEXTS
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), path)


def told(row: Row | DataError) -> object:
    return (str(row), row.code, row.where) if isinstance(row, DataError) else row


def read_indexed(folder: Path, config: SourceConfig) -> list[object]:
    source = open_source(config, folder)
    rows: list[object] = []
    for number in range(len(source)):
        try:
            rows.append(source.read(number))
        except DataError as error:
            rows.append(told(error))
    return rows


@pytest.mark.parametrize(
    ("name", "write"),
    [("rows.csv", write_csv), ("rows.json", write_array), ("rows.parquet", write_parquet)],
)
def test_the_copy_gives_the_rows_that_reading_gives(tmp_path: Path, name: str, write) -> None:
    write(tmp_path / name)
    config = SourceConfig(path=name)
    expected = [told(row) for row in open_rows(config, tmp_path).rows]
    assert len(expected) >= len(TEXTS)
    assert read_indexed(tmp_path, config) == expected
    assert read_indexed(tmp_path, config) == expected


def test_a_folder_is_one_source_in_file_order(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    write_csv(folder / "b.csv")
    (folder / "a.jsonl").write_text('\n{"instruction": "q", "output": "a"}\n\nbroken\n{"instruction": 3}\n')
    config = SourceConfig(path="rows")
    expected = [told(row) for row in open_rows(config, tmp_path).rows]
    assert read_indexed(tmp_path, config) == expected
    assert any("a.jsonl:4" in str(row) for row in expected)


def test_values_that_json_lacks_stay_no_text(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows.parquet")
    source = open_source(SourceConfig(path="rows.parquet"), tmp_path)
    raw = source.files[0].read(0)
    assert raw.columnar
    assert describe(raw.fields["when"]) == "a value of type datetime"
    assert describe(raw.fields["score"]) == "a value of type float"


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("rows.json", '[{"instruction": "q", "output": "a"}, {"instr', "data.broken-json"),
        ("rows.csv", "a,a\n1,2\n", "data.broken-csv"),
        ("rows.jsonl", "", "data.empty-file"),
        ("rows.jsonl", "\n \n", "data.empty-file"),
        ("rows.json", "[]", "data.empty-file"),
    ],
)
def test_a_file_that_cannot_be_read_to_its_end_is_refused_at_once(
    tmp_path: Path, name: str, content: str, code: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        open_source(SourceConfig(path=name), tmp_path)
    assert caught.value.code == code
    assert not list(tmp_path.glob("cache/data/*.jsonl"))


def test_room_is_checked_before_the_copy_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(tmp_path / "rows.csv")
    full = namedtuple("usage", "total used free")(1, 1, 0)
    monkeypatch.setattr(cached_file.shutil, "disk_usage", lambda _: full)
    with pytest.raises(DataError, match="no room") as caught:
        open_source(SourceConfig(path="rows.csv"), tmp_path)
    assert caught.value.code == "data.cache-full"
