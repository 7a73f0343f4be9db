"""A copy of a data file with one row a line, for files whose rows cannot be found by line ends.

Parquet, CSV and JSON arrays are read once, in bounded memory, into the cache folder. A line is the row's line
number in the original file and its fields as JSON; a row that cannot be read is kept as its error, so that it
is named when it is met and not before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from tunewright.cache import CachedFile
from tunewright.data.cached_file import cached_path, check_room, write_cached
from tunewright.data.faults import fault_from_json, fault_to_json
from tunewright.data.lines import MAX_LINE_BYTES
from tunewright.data.raw_row import RawRow
from tunewright.data.sources import iter_file
from tunewright.data.strict_json import dump_json, parse_json
from tunewright.types import JsonValue, SourceRef

LINE_BYTES = 8 * MAX_LINE_BYTES
"""Longest line of a spool. A row's text may grow by escapes."""
_ROOM = 3
"""Times the size of the original that must be free: Parquet is compressed, by about this much."""
_ERROR = "!"
_OTHER_TYPE = "\ufdd0type"
_FLUSH_BYTES = 2**20


def spool_file(path: Path, shown: str) -> CachedFile:
    """The copy of a Parquet, CSV or JSON file, made now unless the cache has it.

    Raises DataError when the file as a whole cannot be read, and `data.cache` or `data.cache-full`.
    """
    copy = cached_path(path, "jsonl")
    if not copy.exists():
        check_room(copy, _ROOM * path.stat().st_size, shown)
    return write_cached(copy, copy.exists, lambda: _in_blocks(_iter_lines(path, shown)), shown)


def parse_spooled(line: bytes, shown: str, *, columnar: bool) -> RawRow:
    """The row of a line of the copy, as reading the file would give it. Raises the row's DataError."""
    number, _, text = line.decode().rstrip("\n").partition(" ")
    if text.startswith(_ERROR):
        raise fault_from_json(json.loads(text.removeprefix(_ERROR)))
    fields = cast("dict[str, object]", parse_json(text))
    if _OTHER_TYPE in text:
        fields = cast("dict[str, object]", _restore(fields))
    return RawRow(fields, SourceRef(shown, int(number)), columnar)


class UnreadValue:
    """Stands for a value that is not JSON, such as a time of a Parquet column. No format takes it."""


def _iter_lines(path: Path, shown: str) -> Iterator[str]:
    for row in iter_file(path, shown):
        if isinstance(row, RawRow):
            yield f"{row.source.line} {dump_json(cast('JsonValue', _replace(dict(row.fields))))}\n"
        elif row.where and row.where.startswith(f"{shown}:"):
            yield f"0 {_ERROR}{json.dumps(fault_to_json(row))}\n"
        else:
            # It names no row: reading could not go on, and all that follows is lost.
            raise row


def _in_blocks(lines: Iterator[str]) -> Iterator[bytes]:
    block = bytearray()
    for line in lines:
        block += line.encode()
        if len(block) >= _FLUSH_BYTES:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def _replace(value: object) -> object:
    """The value with a mark in the place of everything that JSON does not have."""
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, dict):
        return {key: _replace(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_replace(item) for item in cast("list[object]", value)]
    return {_OTHER_TYPE: type(value).__name__}


def _restore(value: object) -> object:
    if isinstance(value, dict):
        items = cast("dict[str, object]", value)
        if _OTHER_TYPE in items:
            return type(str(items[_OTHER_TYPE]), (UnreadValue,), {})()
        return {key: _restore(item) for key, item in items.items()}
    if isinstance(value, list):
        return [_restore(item) for item in cast("list[object]", value)]
    return value
