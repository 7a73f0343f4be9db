"""One row as it stands in a data file: its text, or its fields before any format is applied to them."""

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


@dataclass(frozen=True, slots=True)
class Line:
    """A row as the text of its line; None when it was too long to keep."""

    source: SourceRef
    text: bytes | None
