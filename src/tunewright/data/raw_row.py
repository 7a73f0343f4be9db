"""One row as it stands in a data file, before any format is applied to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunewright.types import SourceRef


@dataclass(frozen=True, slots=True)
class RawRow:
    """The fields of a row and where it came from.

    columnar: read from columns with one type for all rows (Parquet), where keys that only other rows have
    show up as None inside nested values.
    """

    fields: Mapping[str, object]
    source: SourceRef
    columnar: bool = False
