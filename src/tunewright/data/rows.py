"""All rows of one source of a run file, good and bad, in the internal form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class OpenRows:
    """A source whose rows can be taken once, in file order; a fault of a row comes in its place."""

    format: str
    found: str
    rows: Iterator[Row | DataError]


def read_rows(source: SourceConfig, base_dir: Path) -> RowSource:
    """Read every row of a source. Rows that cannot be trained on are collected, not raised.

    Raises as open_rows does.
    """
    opened = open_rows(source, base_dir)
    faults = Faults()
    rows: list[Row] = []
    for row in opened.rows:
        if isinstance(row, DataError):
            faults.add(row)
        else:
            rows.append(row)
    return RowSource(source, opened.format, tuple(rows), tuple(faults.kept), faults.count, opened.found)


def open_rows(source: SourceConfig, base_dir: Path) -> OpenRows:
    """The rows of a source, read as they are taken.

    Raises DataError when there is no file, no row, no readable row, no format that fits, or a wrong column
    mapping.
    """
    stream = iter_raw_rows(base_dir / source.path, source.path)
    head = take_head(stream)
    format_, found = settle_format(source, head)
    return OpenRows(format_, found, _parse_rows(chain(head, stream), format_, source.columns))


def settle_format(source: SourceConfig, head: Sequence[RawRow | DataError]) -> tuple[str, str]:
    """The format of a source whose first rows are `head`, and how it was decided, for people.

    Raises DataError when no row is readable or no format fits.
    """
    sample = [raw for raw in head if isinstance(raw, RawRow)][:SAMPLE_ROWS]
    if not sample:
        raise next(raw for raw in head if isinstance(raw, DataError))
    format_ = resolve_format(source.format, sample, source.columns)
    return format_, _explain(source, format_, len(sample))


def _parse_rows(
    raws: Iterable[RawRow | DataError], format_: str, columns: Mapping[str, str]
) -> Iterator[Row | DataError]:
    for raw in raws:
        if isinstance(raw, DataError):
            yield raw
            continue
        try:
            row = parse_row(raw, format_, columns)
        except DataError as error:
            yield error
        else:
            yield row


def take_head(stream: Iterator[RawRow | DataError]) -> list[RawRow | DataError]:
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
