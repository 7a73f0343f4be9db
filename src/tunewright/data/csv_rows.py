"""Rows of a CSV file with a header line: comma, double quotes, UTF-8. Every field is text."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tunewright.data import lines
from tunewright.data.raw_row import RawRow
from tunewright.data.strict_json import JsonFault, check_text
from tunewright.errors import DataError
from tunewright.types import SourceRef


def iter_csv_rows(path: Path, shown: str) -> Iterator[RawRow | DataError]:
    """Rows, or the DataError in a row's place. A row's line is the one on which it begins."""
    # The module's limit is global and its default of 128 KiB is below a long document.
    csv.field_size_limit(max(csv.field_size_limit(), lines.MAX_LINE_BYTES))
    with path.open("rb") as file:
        text = _TextLines(file, shown)
        reader = csv.reader(text, strict=True)
        header = _read_header(reader, shown)
        while True:
            source = SourceRef(shown, text.number + 1)
            try:
                values = next(reader, None)
                if values is None:
                    return
                if values:
                    yield _build_row(header, values, source)
            except DataError as error:
                yield error
            except csv.Error as error:
                yield _broken(error, source)


class _TextLines:
    """Lines as text. Unlike a generator it goes on after a line that is not UTF-8."""

    def __init__(self, file: BinaryIO, shown: str) -> None:
        self._lines = lines.iter_lines(file)
        self._shown = shown
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        return lines.decode_line(line, f"{self._shown}:{self.number}")


def _read_header(reader: Iterator[list[str]], shown: str) -> list[str]:
    where = f"{shown}:1"
    try:
        header = next(reader, None) or []
    except csv.Error as error:
        raise _broken(error, SourceRef(shown, 1)) from error
    if not header or "" in header or len(set(header)) != len(header):
        raise DataError(
            "the header line must name each column once",
            where=where,
            got=", ".join(header)[:300] or "an empty line",
            expected="column names such as instruction,input,output",
            code="data.broken-csv",
        )
    return header


def _build_row(header: list[str], values: list[str], source: SourceRef) -> RawRow:
    if len(values) != len(header):
        raise DataError(
            "the row has another number of columns than the header",
            where=str(source),
            got=f"{len(values)} columns",
            expected=str(len(header)),
            hint='put a text with commas or line breaks in double quotes, and write " inside it as ""',
            code="data.broken-csv",
        )
    try:
        check_text(values)
    except JsonFault as fault:
        raise DataError(fault.what, where=str(source), code=fault.code) from fault
    return RawRow(dict(zip(header, values, strict=True)), source)


def _broken(error: csv.Error, source: SourceRef) -> DataError:
    return DataError(
        f"broken CSV in the row that begins at line {source.line}: {error}",
        # A quote that never ends has swallowed the rest of the file.
        where=source.path if "end of data" in str(error) else str(source),
        hint='put a text with commas or line breaks in double quotes, and write " inside it as ""',
        code="data.broken-csv",
    )
