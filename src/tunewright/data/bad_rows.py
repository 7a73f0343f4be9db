"""Rows that cannot be trained on: refused, or skipped up to a limit."""

from __future__ import annotations

import math
import re

from tunewright.config.schema import DataConfig
from tunewright.errors import DataError

_PLACE_OF_ROW = re.compile(r":\d+$")


def is_row_fault(error: DataError) -> bool:
    """Whether reading goes on after an error about one row; else the rest of its file is unread."""
    return error.where is not None and _PLACE_OF_ROW.search(str(error.where)) is not None


def most_bad_rows(data: DataConfig, rows: int) -> int:
    """Bad rows that `rows` rows may have."""
    if data.bad_rows == "error":
        return 0
    limit = data.max_bad_rows
    return limit if isinstance(limit, int) else math.floor(limit * rows + 1e-9)


def too_many_bad_rows(data: DataConfig, bad: int, rows: int, where: str) -> DataError:
    """The error for more of them than data.max_bad_rows allows. where: a place to look at."""
    return DataError(
        "too many bad rows to skip",
        where=where,
        got=f"{bad:,} bad rows of {rows:,} read",
        expected=f"at most {most_bad_rows(data, rows):,}, for data.max_bad_rows is {data.max_bad_rows:g}",
        hint="`tunewright data check FILE` lists them; raise data.max_bad_rows if they may be left out",
        code="data.too-many-bad-rows",
    )
