import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewright.data import parquet_rows
from tunewright.data.parquet_rows import iter_parquet_rows
from tunewright.data.raw_row import RawRow
from tunewright.errors import DataError


def write(path: Path, columns: dict[str, list[object]]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_rows_are_numbered_over_all_batches(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(parquet_rows, "BATCH_ROWS", 3)
    path = write(tmp_path / "a.parquet", {"text": [f"row {i}" for i in range(10)]})
    rows = list(iter_parquet_rows(path, "a.parquet"))
    assert [row.source.line for row in rows] == list(range(1, 11))
    assert [row.fields["text"] for row in rows] == [f"row {i}" for i in range(10)]
    assert all(row.columnar for row in rows)


def test_nested_lists_are_read(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write(tmp_path / "a.parquet", {"messages": [turns]})
    assert next(iter_parquet_rows(path, "a")).fields == {"messages": turns}


def test_a_text_with_nul_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["a", "b\0", "c"]})
    rows = list(iter_parquet_rows(path, "a"))
    assert [isinstance(row, RawRow) for row in rows] == [True, False, True]
    assert str(rows[1]) == "a:2: a text holds a NUL character"


@pytest.mark.parametrize("content", [b"PAR1 nonsense", b'{"text": "a"}', b"PAR1" + b"\xff" * 100 + b"PAR1"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(iter_parquet_rows(path, "a.parquet"))
    assert caught.value.code == "data.broken-parquet"
    assert caught.value.where == "a.parquet"


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": [str(i) for i in range(1000)]})
    content = path.read_bytes()
    for size in (4, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match="cannot be read"):
            list(iter_parquet_rows(path, "a.parquet"))


def test_without_pyarrow_the_install_is_named(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["a"]})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"tunewright\[parquet\]") as caught:
        list(iter_parquet_rows(path, "a.parquet"))
    assert caught.value.code == "data.no-pyarrow"
