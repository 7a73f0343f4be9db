"""One source of a run file whose rows are read by number, when they are asked for."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from tunewright.cache import CachedFile
from tunewright.config.schema import SourceConfig
from tunewright.data.bad_rows import is_row_fault
from tunewright.data.faults import FAULTS_KEPT
from tunewright.data.formats import parse_row
from tunewright.data.json_rows import holds_lines, printed_over_lines, read_line
from tunewright.data.line_index import LineIndex, open_index
from tunewright.data.raw_row import RawRow
from tunewright.data.rows import SAMPLE_ROWS, settle_format, take_head
from tunewright.data.sources import empty_file, find_named_files, unreadable
from tunewright.data.spool import LINE_BYTES, parse_spooled, spool_file
from tunewright.errors import DataError
from tunewright.types import Row, SourceRef


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A data file by row number. is_copy: its rows are read from the copy that spool_file made."""

    index: LineIndex
    is_copy: bool
    columnar: bool

    def read(self, row: int) -> RawRow:
        """The fields of a row. Raises DataError naming its place in the original file."""
        shown = self.index.shown
        try:
            if self.is_copy:
                _, line = self.index.read(row, LINE_BYTES)
                return parse_spooled(line or b"", shown, columnar=self.columnar)
            number, line = self.index.read(row)
            return self._parse(line, number, is_first=row == 0)
        except OSError as error:
            raise unreadable(shown, error) from error

    def _parse(self, line: bytes | None, number: int, *, is_first: bool) -> RawRow:
        shown = self.index.shown
        try:
            return read_line(line, SourceRef(shown, number))
        except DataError as error:
            if is_first and shown.lower().endswith(".json") and error.code == "data.broken-json":
                raise printed_over_lines(error, shown) from error
            raise


@dataclass(frozen=True, slots=True)
class IndexedSource:
    """The rows of all files of a source, in file order. found: how the format was decided, for people."""

    config: SourceConfig
    format: str
    found: str
    files: tuple[IndexedFile, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return self.ends[-1]

    def read(self, row: int) -> Row:
        """A row in its internal form. Raises DataError naming its place."""
        return parse_row(_read_raw(self.files, self.ends, row), self.format, self.config.columns)


def open_source(config: SourceConfig, base_dir: Path) -> IndexedSource:
    """Index all files of a source, or find their indexes in the cache.

    Raises DataError as open_rows does, and when the cache folder cannot be used.
    """
    found = find_named_files(base_dir / config.path, config.path)
    files = tuple(_open_file(path, shown) for path, shown in found)
    ends = tuple(accumulate(file.index.rows for file in files))
    head = take_head(_try_raw(files, ends, row) for row in range(min(ends[-1], FAULTS_KEPT + SAMPLE_ROWS)))
    if lost := next((row for row in head if isinstance(row, DataError) and not is_row_fault(row)), None):
        raise lost
    format_, how = settle_format(config, head)
    return IndexedSource(config, format_, how, files, ends)


def _open_file(path: Path, shown: str) -> IndexedFile:
    try:
        if not path.stat().st_size:
            raise empty_file(shown)
        kind = path.suffix.lower()
        is_copy = kind not in (".json", ".jsonl") or not holds_lines(path, shown)
        index = _index_copy(spool_file(path, shown), shown) if is_copy else open_index(path, shown)
    except OSError as error:
        raise unreadable(shown, error) from error
    if index.rows == 0:
        raise empty_file(shown)
    return IndexedFile(index, is_copy, columnar=kind == ".parquet")


def _index_copy(copy: CachedFile, shown: str) -> LineIndex:
    return open_index(copy.path, shown, (copy,))


def _try_raw(files: tuple[IndexedFile, ...], ends: tuple[int, ...], row: int) -> RawRow | DataError:
    try:
        return _read_raw(files, ends, row)
    except DataError as error:
        return error


def _read_raw(files: tuple[IndexedFile, ...], ends: tuple[int, ...], row: int) -> RawRow:
    file = bisect_right(ends, row)
    return files[file].read(row - (ends[file - 1] if file else 0))
