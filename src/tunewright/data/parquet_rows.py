"""Rows of a Parquet file. The only file that imports pyarrow, and only when such a file is read."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from tunewright.data.raw_row import RawRow
from tunewright.data.strict_json import JsonFault, check_text
from tunewright.errors import DataError
from tunewright.types import SourceRef

BATCH_ROWS = 256


def iter_parquet_rows(path: Path, shown: str) -> Iterator[RawRow | DataError]:
    """Rows, or the DataError in a row's place, read a few at a time. A row's line is its number."""
    parquet = _import_parquet(shown)
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for fields in cast("list[dict[str, object]]", batch.to_pylist()):
                    number += 1
                    yield _check_row(RawRow(fields, SourceRef(shown, number), columnar=True))
    # Arrow's errors derive from ValueError or OSError; a text that is not UTF-8 is a UnicodeDecodeError.
    except (ValueError, OSError) as error:
        raise DataError(
            f"the Parquet file cannot be read: {error}",
            where=shown,
            hint=f"{number} rows were read before; is the file complete?",
            code="data.broken-parquet",
        ) from error


def _import_parquet(shown: str) -> Any:
    try:
        return import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            "reading Parquet needs pyarrow, which is not installed",
            where=shown,
            hint="pip install 'tunewright[parquet]', or convert the file to JSONL",
            code="data.no-pyarrow",
        ) from error


def _check_row(row: RawRow) -> RawRow | DataError:
    try:
        check_text(dict(row.fields))
    except JsonFault as fault:
        return DataError(fault.what, where=str(row.source), code=fault.code)
    return row
