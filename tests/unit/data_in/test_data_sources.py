import os
from pathlib import Path

import pytest

from tunewright.data.sources import iter_raw_rows
from tunewright.errors import DataError

ROW = '{"text": "a"}\n'


def refused(path: Path) -> DataError:
    """The fault of a file, or of its first row."""
    try:
        first = next(iter_raw_rows(path, str(path)))
    except DataError as error:
        return error
    assert isinstance(first, DataError)
    return first


def test_a_folder_is_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(ROW * 2)
    (tmp_path / "a.csv").write_text("text\nx\n")
    (tmp_path / "C.JSON").write_text(f"[{ROW}]")
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / ".hidden.jsonl").write_text("broken")
    (tmp_path / "inner").mkdir()
    rows = [str(row.source) for row in iter_raw_rows(tmp_path, "data")]
    assert rows == ["data/C.JSON:1", "data/a.csv:2", "data/b.jsonl:1", "data/b.jsonl:2"]


def test_a_fault_comes_in_the_place_of_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(ROW + "broken\n" + ROW)
    first, fault, last = iter_raw_rows(path, "a.jsonl")
    assert isinstance(fault, DataError)
    assert "line 2" in str(fault)
    assert [str(row.source) for row in (first, last)] == ["a.jsonl:1", "a.jsonl:3"]


def test_a_missing_file_says_where_it_looked(tmp_path: Path) -> None:
    error = refused(tmp_path / "no.jsonl")
    assert error.code == "data.no-such-file"
    assert str(tmp_path) in str(error)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", ""),
        ("a.jsonl", "\n \n"),
        ("a.json", "[]"),
        ("a.json", "\ufeff"),
        ("a.csv", "text\n"),
        ("a.csv", ""),
        ("a.parquet", ""),
    ],
)
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert refused(tmp_path / name).code == "data.empty-file"
    assert refused(tmp_path).code == "data.empty-file"


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.zip", "a.tar", "a.json.zst"])
def test_compressed_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    (tmp_path / "z.jsonl").write_text(ROW)
    for path in (tmp_path / name, tmp_path):
        error = refused(path)
        assert error.code == "data.unsupported-file"
        assert error.where == str(tmp_path / name)
        assert "decompress" in str(error)


@pytest.mark.parametrize("name", ["a.txt", "a.pkl", "a", "a.yaml"])
def test_other_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(ROW)
    error = refused(tmp_path / name)
    assert error.code == "data.unsupported-file"
    assert ".jsonl" in str(error)
    assert refused(tmp_path).code == "data.no-data-files"


def test_a_compressed_file_under_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\x1f\x8b\x08\x00")
    assert refused(tmp_path / "a.jsonl").code == "data.not-utf8"


def test_an_empty_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path).code == "data.no-data-files"
    os.mkfifo(tmp_path / "a.jsonl")
    assert refused(tmp_path / "a.jsonl").code == "data.unsupported-file"


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(ROW)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    error = refused(path)
    assert error.code == "data.unreadable-file"
    assert "Permission denied" in str(error)


@pytest.mark.parametrize(
    ("names", "split"),
    [(("state.json", "dataset_info.json", "data-0.arrow"), ""), (("dataset_dict.json",), "['train']")],
)
def test_a_folder_of_the_datasets_library_is_named_as_one(
    tmp_path: Path, names: tuple[str, ...], split: str
) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    error = refused(tmp_path)
    assert error.code == "data.unsupported-file"
    assert f"load_from_disk({str(tmp_path)!r}){split}.to_json(" in str(error.hint)


def test_arrow_files_are_refused_with_the_line_that_converts_them(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(b"ARROW1")
    (tmp_path / "b.jsonl").write_text(ROW)
    assert "Dataset.from_file" in str(refused(tmp_path).hint)
