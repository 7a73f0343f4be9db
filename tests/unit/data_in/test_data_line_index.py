from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunewright.data import line_index
from tunewright.data.line_index import LineIndex, open_index
from tunewright.data.lines import iter_lines
from tunewright.errors import DataError

BOM = b"\xef\xbb\xbf"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


def index_of(folder: Path, content: bytes) -> LineIndex:
    path = folder / "rows.jsonl"
    path.write_bytes(content)
    return open_index(path, path.name)


def read_all(index: LineIndex, limit: int = line_index.MAX_LINE_BYTES) -> list[tuple[int, bytes | None]]:
    return [index.read(row, limit) for row in range(index.rows)]


def rows_in_order(path: Path) -> list[tuple[int, bytes | None]]:
    """The same rows as a reader from start to end sees them."""
    with path.open("rb") as file:
        return [(n, line) for n, line in iter_lines(file) if line is None or line.strip(b" \t\r\n")]


@pytest.mark.parametrize(
    "content",
    [
        b"{1}\n{2}\n",
        b"{1}\r\n\r\n{2}\r\n",
        b"\n\n  \n{1}\n \t \n\n{2}",
        BOM + b"{1}\n{2}",
        BOM + b"\n{1}\n",
        BOM,
        b" {1}\n\t{2}\n",
        b"{1}\n   ",
        b"\n",
    ],
)
def test_an_index_finds_the_rows_that_reading_finds(tmp_path: Path, content: bytes) -> None:
    index = index_of(tmp_path, content)
    assert read_all(index) == rows_in_order(index.data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.lists(st.sampled_from([b"a", b"bcd", b"\n", b"\r\n", b" ", b"\t", BOM]), max_size=40),
    chunk=st.integers(3, 9),
)
def test_rows_that_span_chunks_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: list[bytes], chunk: int
) -> None:
    monkeypatch.setattr(line_index, "SCAN_BYTES", chunk)
    path = tmp_path / "rows.jsonl"
    path.unlink(missing_ok=True)
    index = index_of(tmp_path, b"".join(content))
    assert read_all(index) == rows_in_order(path)


def test_a_line_above_the_limit_is_passed_over(tmp_path: Path) -> None:
    index = index_of(tmp_path, b"12345\n123456\n1234\n12345")
    assert read_all(index, limit=5) == [(1, b"12345\n"), (2, None), (3, b"1234\n"), (4, b"12345")]


def test_the_file_is_scanned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = index_of(tmp_path, b"{1}\n{2}\n")
    monkeypatch.setattr(line_index, "_scan", None)
    assert open_index(first.data, "rows.jsonl") == first


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "grow"])
def test_a_damaged_index_is_made_again(tmp_path: Path, damage: str) -> None:
    index = index_of(tmp_path, b"{1}\n" * 100)
    whole = index.file.read_bytes()
    flipped = bytearray(whole)
    flipped[33] ^= 4
    index.file.write_bytes(
        {"cut": whole[:-20], "flip": bytes(flipped), "empty": b"", "grow": whole + b"x" * 16}[damage]
    )
    assert open_index(index.data, "rows.jsonl") == index
    assert index.file.read_bytes() == whole


def test_a_changed_file_gets_another_index(tmp_path: Path) -> None:
    before = index_of(tmp_path, b"{1}\n{2}\n")
    facts = before.data.stat()
    after = index_of(tmp_path, b"{12}\n{}\n")
    os.utime(after.data, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    again = open_index(after.data, "rows.jsonl")
    assert len({before.file, after.file, again.file}) == 3
    assert again.read(1) == (2, b"{}\n")
    assert again.sha256 != before.sha256


def test_a_file_that_changes_under_the_run_is_named(tmp_path: Path) -> None:
    index = index_of(tmp_path, b"{1}\n{2}\n")
    index.data.write_bytes(b"{1}\n{2}\n{3}\n")
    with pytest.raises(DataError, match=r"rows.jsonl: the data file has changed") as caught:
        index.read(0)
    assert caught.value.code == "data.file-changed"


def test_other_content_with_the_same_size_and_time_is_named(tmp_path: Path) -> None:
    index = index_of(tmp_path, b"{1}\n{2}\n")
    facts = index.data.stat()
    index.data.write_bytes(b"{1}{2}\n\n")
    os.utime(index.data, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert index.read(0) == (1, b"{1}{")
    with pytest.raises(DataError, match="no line end before line 2"):
        index.read(1)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "taken"))
    with pytest.raises(DataError, match="TUNEWRIGHT_CACHE") as caught:
        index_of(tmp_path, b"{1}\n")
    assert caught.value.code == "data.cache"
