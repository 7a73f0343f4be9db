"""Training rows that come through a pipe: JSONL that can be read once, in order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from tunewright.config.schema import STDIN, SourceConfig
from tunewright.data.formats import parse_row, resolve_format
from tunewright.data.json_rows import read_line
from tunewright.data.lines import iter_lines
from tunewright.data.raw_row import Line, RawRow
from tunewright.data.report import DataReport, SourceReport
from tunewright.data.row_survey import RowSurvey
from tunewright.data.rows import SAMPLE_ROWS
from tunewright.data.sources import unreadable
from tunewright.data.step import ExampleRow
from tunewright.errors import DataError
from tunewright.types import SourceRef

_BUFFER_BYTES = 1 << 20


class PipedRows:
    """The rows of a pipe. It is opened when the first line is asked for: opening waits for the writer."""

    def __init__(
        self, source: SourceConfig, base_dir: Path, survey: RowSurvey, held_out: Sequence[SourceReport]
    ) -> None:
        self._source = source
        self._path = base_dir / source.path
        self._survey = survey
        self._held_out = held_out
        self._format = source.format
        self._rows_read = 0

    def lines(self) -> Iterator[Line]:
        """Every line that is not blank, in order, to the end of the pipe. Raises DataError where it cannot be
        read, or where its first rows have no format."""
        shown = "standard input" if self._source.path == STDIN else self._source.path
        try:
            with _open(self._source.path, self._path) as file:
                found = (Line(SourceRef(shown, number), text) for number, text in iter_lines(file))
                lines = (line for line in found if line.text is None or line.text.strip())
                head = list(islice(lines, SAMPLE_ROWS))
                self._format = self._find_format(head)
                for line in chain(head, lines):
                    self._rows_read += 1
                    yield line
        except OSError as error:
            raise unreadable(shown, error) from error

    def prepare(self, line: Line) -> ExampleRow:
        """The examples of a line, counted for the report; none where a bad row is skipped. Raises DataError
        naming the line, and as RowSurvey.skip does."""
        try:
            row = parse_row(read_line(line.text, line.source), self._format, self._source.columns)
            return self._survey.take_good(row)
        except DataError as error:
            self._survey.skip(error, self._rows_read)
            return ()

    def report(self) -> DataReport:
        """Counts over what was read so far."""
        pipe = SourceReport(
            path=self._source.path,
            format=self._format,
            found="as named" if self._source.format != "auto" else "found by the keys of the first rows",
            use="train",
            weight=1.0,
            rows_read=self._rows_read,
            rows_used=None,
        )
        return self._survey.report(
            [pipe, *self._held_out],
            train_rows=self._rows_read,
            eval_rows=sum(source.rows_used or 0 for source in self._held_out),
            loading="piped",
            duplicate_rows=None,
        )

    def _find_format(self, head: list[Line]) -> str:
        if not head:
            return self._format
        read = [_try_line(line) for line in head]
        sample = [row for row in read if isinstance(row, RawRow)]
        if not sample:
            raise next(row for row in read if isinstance(row, DataError))
        return resolve_format(self._source.format, sample, self._source.columns)


def _try_line(line: Line) -> RawRow | DataError:
    try:
        return read_line(line.text, line.source)
    except DataError as error:
        return error


def _open(path: str, full: Path) -> BinaryIO:
    # A copy of the descriptor: closing it leaves sys.stdin as it is.
    return open(os.dup(0) if path == STDIN else full, "rb", buffering=_BUFFER_BYTES)
