"""The rows of a source in chunks, as little read as the file allows.

Of JSONL only the lines are found here: parsing them is a fifth of the work, and goes to the process that does
the rest. Rows of other files come parsed, as no part of such a file can be read alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from tunewright.data.json_rows import SPACE, holds_lines
from tunewright.data.lines import iter_lines
from tunewright.data.raw_row import Line, RawRow
from tunewright.data.sources import empty_file, find_named_files, iter_file, unreadable
from tunewright.errors import DataError
from tunewright.types import SourceRef

UnreadRow = Line | RawRow | DataError

CHUNK_ROWS = 128
CHUNK_BYTES = 2**20
"""Text after which a chunk of lines ends: rows may be of 16 MiB each."""


def iter_chunks(path: Path, shown: str) -> Iterator[list[UnreadRow]]:
    """All rows of a file or folder in order; no chunk is empty. Raises DataError for faults of a file."""
    chunk: list[UnreadRow] = []
    size = 0
    for row in chain.from_iterable(_iter_file(file, name) for file, name in find_named_files(path, shown)):
        chunk.append(row)
        size += len(row.text or b"") if isinstance(row, Line) else 0
        if len(chunk) >= CHUNK_ROWS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _iter_file(file: Path, name: str) -> Iterator[UnreadRow]:
    # A .json file is another matter: if it is broken, the first line says so for all of them.
    if file.suffix.lower() != ".jsonl":
        return iter_file(file, name)
    try:
        is_lines = file.stat().st_size > 0 and holds_lines(file, name)
    except OSError as error:
        raise unreadable(name, error) from error
    return _iter_lines(file, name) if is_lines else iter_file(file, name)


def _iter_lines(file: Path, name: str) -> Iterator[Line]:
    is_empty = True
    try:
        with file.open("rb") as opened:
            for number, text in iter_lines(opened):
                if text is None or text.strip(SPACE):
                    is_empty = False
                    yield Line(SourceRef(name, number), text)
    except OSError as error:
        raise unreadable(name, error) from error
    if is_empty:
        raise empty_file(name)
