import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data import lines
from tunewright.data.json_array import iter_elements
from tunewright.data.json_rows import iter_json_rows
from tunewright.data.raw_row import RawRow
from tunewright.errors import DataError

TEXT = st.text(max_size=6) | st.sampled_from(['"', "\\", '\\"', "[", "}{", "é😀", "\u2028", "\\\\"])
ROWS = st.lists(st.dictionaries(TEXT, TEXT | st.lists(TEXT, max_size=2), max_size=3), max_size=6)
GOOD = '{"instruction": "a", "output": "b"}'


def read(path: Path, content: str | bytes) -> list[RawRow | DataError]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(iter_json_rows(path, path.name))


def summary(rows: list[RawRow | DataError]) -> list[int | str]:
    """Lines of good rows, codes of faults."""
    return [row.source.line if isinstance(row, RawRow) else row.code for row in rows]


def chunked(text: str, size: int) -> Iterator[str]:
    return iter([text[at : at + size] for at in range(0, len(text), size)])


@given(rows=ROWS, indent=st.sampled_from([None, 1, 4]), size=st.integers(1, 40), ascii_only=st.booleans())
def test_an_array_in_any_chunks_gives_its_elements(rows, indent, size, ascii_only) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    elements = list(iter_elements(chunked(text, size), "x.json"))
    assert [json.loads(element.text) for element in elements] == rows
    for element in elements:
        line = text.split("\n")[element.line - 1]
        assert line[element.column - 1 :].startswith(element.text.split("\n")[0])


@given(
    rows=ROWS.filter(bool),
    place=st.integers(0),
    junk=st.sampled_from(list('"[]{},:\\x 1\n')),
    drop=st.booleans(),
)
def test_a_damaged_array_is_read_right_or_refused(rows, place, junk, drop) -> None:
    text = json.dumps(rows)
    place %= len(text)
    damaged = text[:place] + ("" if drop else junk) + text[place + drop :]
    if damaged.lstrip()[:1] != "[":
        return
    found: list[object] = []
    try:
        for element in iter_elements(chunked(damaged, 7), "x.json"):
            found.append(json.loads(element.text))
    except (DataError, ValueError):
        with pytest.raises((ValueError, AssertionError)):
            assert all(isinstance(row, dict) for row in json.loads(damaged))
    else:
        assert found == json.loads(damaged)


def test_lines_keep_their_numbers_across_blank_lines_and_line_ends(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.jsonl", f"{GOOD}\r\n\n  \t\r\n{GOOD}\n{GOOD}")
    assert summary(rows) == [1, 4, 5]


def test_a_byte_order_mark_is_fine_at_the_start_only(tmp_path: Path) -> None:
    mark = "\ufeff"
    assert summary(read(tmp_path / "a.jsonl", f"{mark}{GOOD}\n{GOOD}")) == [1, 2]
    assert summary(read(tmp_path / "a.json", f"{mark}[{GOOD}]")) == [1]
    rows = read(tmp_path / "b.jsonl", f"{GOOD}\n{mark}{GOOD}\n{GOOD}")
    assert summary(rows) == [1, "data.broken-json", 3]
    assert "byte order mark" in str(rows[1])


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_the_content_decides_between_array_and_lines(tmp_path: Path, name: str) -> None:
    assert summary(read(tmp_path / name, f"{GOOD}\n{GOOD}\n")) == [1, 2]
    assert summary(read(tmp_path / name, f" \n[{GOOD},\n{GOOD}]\n")) == [1, 2]


def test_broken_lines_are_named_and_the_others_read(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.jsonl", f'{GOOD}\n{{"instruction": "x", "output": }}\n{GOOD}\n')
    assert summary(rows) == [1, "data.broken-json", 3]
    assert str(rows[1]).startswith("a.jsonl:2: Broken JSON at line 2 column 32: Expecting value, got '}'")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"a": NaN}', "data.bad-number"),
        (b'{"a": 1, "a": 2}', "data.duplicate-key"),
        (rb'{"a": "\udc00"}', "data.bad-text"),
        (b'{"a": "\xff"}', "data.not-utf8"),
        (b'{"a": "\xed\xa0\x80"}', "data.not-utf8"),
        (b"\0" * 50, "data.broken-json"),
        (b"[" * 5000, "data.too-deep"),
        (b'"text"', "data.not-an-object"),
        (b"[1, 2]", "data.not-an-object"),
        (b"null", "data.not-an-object"),
        (b'{"a": "' + b"x" * 3000 + b'"}', "data.line-too-long"),
    ],
)
def test_each_kind_of_bad_line_stands_alone(tmp_path: Path, monkeypatch, line: bytes, code: str) -> None:
    if code == "data.line-too-long":
        monkeypatch.setattr(lines, "MAX_LINE_BYTES", 2000)
    rows = read(tmp_path / "a.jsonl", GOOD.encode() + b"\n" + line + b"\n" + GOOD.encode())
    assert summary(rows) == [1, code, 3]
    assert str(rows[1]).startswith("a.jsonl:2: ")


def test_a_bad_row_of_an_array_gives_row_and_line(tmp_path: Path) -> None:
    text = f'[\n  {GOOD},\n  {{"instruction": "x",\n   "output": nope}},\n  {{"a": NaN}},\n  {GOOD}\n]'
    rows = read(tmp_path / "a.json", text)
    assert summary(rows) == [1, "data.broken-json", "data.bad-number", 4]
    assert str(rows[1]).startswith("a.json:2: Broken JSON at line 4 column 14 (row 2): Expecting value")
    assert str(rows[2]) == "a.json:3: NaN is not a JSON number (row 3, line 5)"


@pytest.mark.parametrize(
    ("text", "good", "words"),
    [
        (f"[{GOOD}", 1, "line 1 column 37: Expecting ',' or ']'"),
        (f"[{GOOD},", 1, "Expecting a row"),
        (f"[{GOOD},]", 1, "Expecting a row"),
        (f"[{GOOD}\n{GOOD}]", 1, "line 2 column 1: Expecting ',' or ']'"),
        (f"[{GOOD}] x", 1, "after the end"),
        (f'[{GOOD},\n{{"a": "b}}, {GOOD}]', 1, "line 2 column 14"),
        (f'[{GOOD}, {{"a": [1, ', 1, "Expecting value"),
        (f'[{GOOD}, "text"]', 1, "not an object"),
        ("[,]", 0, "Expecting a row"),
    ],
)
def test_a_broken_array_keeps_the_rows_before(tmp_path: Path, text: str, good: int, words: str) -> None:
    rows = read(tmp_path / "a.json", text)
    assert [isinstance(row, RawRow) for row in rows] == [True] * good + [False]
    assert words in str(rows[-1])
    assert str(rows[-1]).startswith("a.json: ")


def test_an_array_that_stops_being_utf8_names_the_line(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.json", f'[{GOOD},\n{GOOD},\n{{"a": "'.encode() + b'\xe9"}]')
    assert summary(rows) == [1, 2, "data.not-utf8"]
    assert str(rows[-1]).startswith("a.json line 3: ")


def test_a_pretty_printed_object_is_one_fault(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.json", json.dumps({"data": [1, 2, 3]}, indent=2))
    assert summary(rows) == ["data.broken-json"]
    assert "array of rows" in str(rows[0])
    lines = read(tmp_path / "a.jsonl", "\n".join([json.dumps({"text": "a"}, indent=2)] * 2))
    assert summary(lines) == ["data.broken-json"]
    assert "jq -c" in str(lines[0])
    # A first line that is only broken says nothing about the others.
    assert summary(read(tmp_path / "b.jsonl", f'{{"text": "a\n{GOOD}')) == ["data.broken-json", 2]


def test_utf16_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="UTF-16"):
        read(tmp_path / "a.jsonl", GOOD.encode("utf-16"))


def test_an_array_streams(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lines, "CHUNK_BYTES", 64 * 1024)
    path = tmp_path / "a.json"
    row = json.dumps({"text": "x" * 1000})
    path.write_text("[" + ",\n".join([row] * 2000) + "]")
    tracemalloc.start()
    count = sum(isinstance(row, RawRow) for row in iter_json_rows(path, "a.json"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 2000
    assert peak < path.stat().st_size / 2


MEASURE = """
import resource, sys
from pathlib import Path
from tunewright.data.json_rows import iter_json_rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = list(iter_json_rows(Path(sys.argv[1]), "big"))
print(len(rows), rows[-1].code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("name", "start"), [("a.jsonl", b'{"text": "'), ("a.json", b'[{"text": "'), ("b.json", b"")]
)
def test_a_line_without_end_takes_bounded_memory(tmp_path: Path, name: str, start: bytes) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(start)
        file.truncate(300 * 1024**2)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True, timeout=60
    )
    rows, code, grown_kib = done.stdout.split()
    assert (rows, code) == ("1", "data.line-too-long")
    assert int(grown_kib) < 80 * 1024
