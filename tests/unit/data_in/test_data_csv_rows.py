import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data import lines
from tunewright.data.csv_rows import iter_csv_rows
from tunewright.data.raw_row import RawRow
from tunewright.errors import DataError

HEADER = "instruction,output\n"
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def read(path: Path, content: str | bytes) -> list[RawRow | DataError]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(iter_csv_rows(path, path.name))


def summary(rows: list[RawRow | DataError]) -> list[int | str]:
    return [row.source.line if isinstance(row, RawRow) else f"{row.where} {row.code}" for row in rows]


@given(rows=st.lists(st.tuples(TEXT, TEXT.map(lambda t: f'{t} "a, b"\n')), max_size=5), mark=st.booleans())
def test_what_csv_writes_is_read_back(tmp_path_factory, rows, mark: bool) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerows([("instruction", "output"), *rows])
    content = ("\ufeff" if mark else "") + buffer.getvalue()
    read_rows = read(tmp_path_factory.mktemp("csv") / "a.csv", content)
    assert [tuple(row.fields.values()) for row in read_rows] == rows


def test_a_row_is_named_by_the_line_on_which_it_begins(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", HEADER + 'a,"one\ntwo\nthree"\n\nb,c\n')
    assert summary(rows) == [2, 6]
    assert rows[0].fields == {"instruction": "a", "output": "one\ntwo\nthree"}


def test_a_long_text_is_read(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", HEADER + "a," + "x" * 400_000 + "\n")
    assert len(rows[0].fields["output"]) == 400_000


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"only one", "data.broken-csv"),
        (b"a,b,c", "data.broken-csv"),
        (b'a,"b" c', "data.broken-csv"),
        (b"a,b\0c", "data.bad-text"),
        (b"a,\xff", "data.not-utf8"),
        (b"a," + b"x" * 3000, "data.line-too-long"),
    ],
)
def test_a_bad_row_stands_alone(tmp_path: Path, monkeypatch, line: bytes, code: str) -> None:
    if code == "data.line-too-long":
        monkeypatch.setattr(lines, "MAX_LINE_BYTES", 2000)
    rows = read(tmp_path / "a.csv", HEADER.encode() + b"a,b\n" + line + b"\nc,d\n")
    assert summary(rows) == [2, f"a.csv:3 {code}", 4]


def test_a_quote_that_never_closes_names_where_it_opened(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", HEADER + 'a,b\nc,"d\ne,f\ng,h\n')
    assert summary(rows) == [2, "a.csv data.broken-csv"]
    # The rest of the file is lost, so it is no fault of one row.
    assert "begins at line 3" in str(rows[-1])


@pytest.mark.parametrize("header", ["\n", "a,a\n", "a,,b\n", 'a,"b" c\n'])
def test_a_header_must_name_each_column_once(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.csv", header + "1,2\n")
    assert caught.value.code == "data.broken-csv"
    assert caught.value.where == "a.csv:1"
