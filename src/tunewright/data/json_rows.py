"""Rows of JSON files: an array of objects, or one object per line. The content decides which it is.

Both stream: memory is bounded by the longest row allowed, not by the file. Faults of a row come out as
values in its place, so that one reading finds them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tunewright.data.json_array import Element, iter_elements
from tunewright.data.lines import decode_line, iter_lines, iter_text
from tunewright.data.raw_row import RawRow
from tunewright.data.strict_json import JsonFault, parse_json
from tunewright.errors import DataError
from tunewright.types import SourceRef

SPACE = b" \t\r\n"
"""What JSON counts as white space: a line of nothing else is no row."""

_GOES_ON = (b"{", b"[", b",", b":")


def iter_json_rows(path: Path, shown: str) -> Iterator[RawRow | DataError]:
    """Rows, or the DataError in a row's place, of a .json or .jsonl file. `shown` names it in messages."""
    is_lines = holds_lines(path, shown)
    with path.open("rb") as file:
        if is_lines:
            yield from _iter_json_lines(file, shown, is_json=path.suffix.lower() == ".json")
        else:
            yield from _iter_array(file, shown)


def holds_lines(path: Path, shown: str) -> bool:
    """Whether a JSON file holds one row per line, not an array. Raises DataError for UTF-16."""
    with path.open("rb") as file:
        return _first_byte(file, shown) != b"["


def read_line(line: bytes | None, source: SourceRef) -> RawRow:
    """The row of a line of iter_lines. Raises DataError naming the place."""
    element = Element(decode_line(line, str(source)).rstrip("\r\n"), source.line, 1)
    return _read_row(element, source, row=None)


def printed_over_lines(error: DataError, shown: str) -> DataError:
    """The fault of a JSON file whose first line is no row: nothing in it can be read."""
    error.where = shown
    error.hint = (
        "a JSON file holds an array of rows, [{…}, {…}], or one whole row per line; "
        f"`jq -c . {shown} > rows.jsonl` writes an object that goes over several lines on one"
    )
    return error


def _first_byte(file: BinaryIO, shown: str) -> bytes:
    head = file.read(4)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            "the text is not UTF-8",
            where=shown,
            got="UTF-16",
            hint="save the file as UTF-8",
            code="data.not-utf8",
        )
    rest = head.removeprefix(b"\xef\xbb\xbf").lstrip(SPACE)
    while not rest and (head := file.read(65536)):
        rest = head.lstrip(SPACE)
    return rest[:1]


def _iter_json_lines(file: BinaryIO, shown: str, *, is_json: bool) -> Iterator[RawRow | DataError]:
    is_first = True
    for number, line in iter_lines(file):
        if line is not None and not line.strip(SPACE):
            continue
        source = SourceRef(shown, number)
        try:
            row = read_line(line, source)
        except DataError as error:
            # A pretty-printed object is one fault, not one per line.
            is_cut = line is not None and line.rstrip().endswith(_GOES_ON)
            if is_first and (is_json or is_cut) and error.code == "data.broken-json":
                yield printed_over_lines(error, shown)
                return
            row = error
        is_first = False
        yield row


def _iter_array(file: BinaryIO, shown: str) -> Iterator[RawRow | DataError]:
    row = 0
    try:
        for element in iter_elements(iter_text(file, shown), shown):
            row += 1
            source = SourceRef(shown, row)
            try:
                yield _read_row(element, source, row=row)
            except DataError as error:
                yield error
    except DataError as error:
        # The array itself is broken: there is no place from which reading could go on.
        error.hint = error.hint or "rows after this place were not read"
        yield error


def _read_row(element: Element, source: SourceRef, *, row: int | None) -> RawRow:
    """The row of one JSON text. `row`: its number where that is not the line number, for messages."""
    place = f" (row {row}, line {element.line})" if row else ""
    try:
        value = parse_json(element.text)
    except JsonFault as fault:
        raise _broken(element, fault, source, place) from fault
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "one bare value"
        raise DataError(
            f"the row is not an object{place}",
            where=str(source),
            got=kind,
            expected='an object such as {"instruction": …, "output": …}',
            code="data.not-an-object",
        )
    return RawRow(value, source)


def _broken(element: Element, fault: JsonFault, source: SourceRef, place: str) -> DataError:
    if fault.position is None:
        return DataError(f"{fault.what}{place}", where=str(source), code=fault.code)
    line, column = element.locate(fault.position)
    row = f" (row {source.line})" if place else ""
    near = element.text[fault.position : fault.position + 20]
    return DataError(
        f"Broken JSON at line {line} column {column}{row}: {fault.what}",
        where=str(source),
        got=_show(near),
        hint=_hint(near),
        code=fault.code,
    )


def _show(near: str) -> str:
    return repr(near.rstrip()) if near.strip() else "the end of the row"


def _hint(near: str) -> str | None:
    if near.startswith("\ufeff"):
        return "a byte order mark inside the file: were two files joined?"
    if near.startswith("\0"):
        return "NUL bytes: the file is damaged or not a text file"
    return "JSON takes double quotes only" if near.startswith("'") else None
