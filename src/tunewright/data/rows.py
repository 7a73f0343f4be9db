"""All rows of one source of a run file, good and bad, in the internal form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tunewright.config.schema import SourceConfig
from tunewright.data.faults import FAULTS_KEPT, Faults
from tunewright.data.formats import FORMATS, parse_row, resolve_format
from tunewright.data.raw_row import RawRow
from tunewright.data.sources import iter_raw_rows
from tunewright.errors import DataError
from tunewright.types import Row

SAMPLE_ROWS = 20


@dataclass(frozen=True, slots=True)
class RowSource:
    """The rows of a source in file order.

    bad: the first FAULTS_KEPT faults, each naming its row. bad_count: all of them. found: how the format was
    decided, for people.
    """

    config: SourceConfig
    format: str
    rows: tuple[Row, ...]
    bad: tuple[DataError, ...]
    bad_count: int
    found: str

    @property
    def rows_read(self) -> int:
        """Rows in the files, good and bad."""
        return len(self.rows) + self.bad_count


def read_rows(source: SourceConfig, base_dir: Path) -> RowSource:
    """Read every row of a source. Rows that cannot be trained on are collected, not raised.

    Raises DataError when there is no file, no row, no readable row, no format that fits, or a wrong column
    mapping.
    """
    faults = Faults()
    stream = iter_raw_rows(base_dir / source.path, source.path)
    head = _take_head(stream)
    sample = [raw for raw in head if isinstance(raw, RawRow)][:SAMPLE_ROWS]
    if not sample:
        raise next(raw for raw in head if isinstance(raw, DataError))
    format_ = resolve_format(source.format, sample, source.columns)
    rows: list[Row] = []
    for raw in chain(head, stream):
        if isinstance(raw, DataError):
            faults.add(raw)
            continue
        try:
            rows.append(parse_row(raw, format_, source.columns))
        except DataError as error:
            faults.add(error)
    found = _explain(source, format_, len(sample))
    return RowSource(source, format_, tuple(rows), tuple(faults.kept), faults.count, found)


def _take_head(stream: Iterator[RawRow | DataError]) -> list[RawRow | DataError]:
    """The first rows up to SAMPLE_ROWS good ones, or FAULTS_KEPT in all."""
    head: list[RawRow | DataError] = []
    good = 0
    for raw in stream:
        head.append(raw)
        good += isinstance(raw, RawRow)
        if good == SAMPLE_ROWS or len(head) == FAULTS_KEPT:
            break
    return head


def _explain(source: SourceConfig, format_: str, rows: int) -> str:
    if source.format != "auto":
        return f"{format_}, as named"
    keys = ", ".join(FORMATS[format_].required)
    return (
        f"{format_}, found by the keys {keys} in the first {rows} rows"
        if rows > 1
        else f"{format_}, found by the keys {keys}"
    )
