"""Where each row of a JSONL file begins, so that any row is one small read.

The index is made by one pass over the file and kept in the cache folder: per row its byte offset and line
number as little-endian uint64, one more entry for the end of the file, then a footer with a checksum. It is
read with pread, as the data is: pages of a mapped file would count as memory of the process.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunewright.cache import CachedFile
from tunewright.data.cached_file import cached_path, write_cached
from tunewright.data.lines import MAX_LINE_BYTES
from tunewright.errors import DataError

# Array letters: C bytes of a chunk, L lines that end in it.

SCAN_BYTES = 4 * 2**20
_ENTRY = struct.Struct("<QQ")
_FOOTER = struct.Struct("<8sQQ32s")  # magic, rows, CRC-32 of the entries, sha256 of the data file
_MAGIC = b"TWROWS01"
_BLANK = b" \t\r\n"
_NEWLINE = 10


@dataclass(frozen=True, slots=True)
class LineIndex:
    """The non-blank lines of one file by number. shown: its name in messages. sha256: of the whole file.
    cached: the files of the cache that reading needs."""

    data: Path
    shown: str
    file: Path
    rows: int
    sha256: str
    size: int
    mtime_ns: int
    cached: tuple[CachedFile, ...] = field(compare=False, repr=False)

    def read(self, row: int, limit: int = MAX_LINE_BYTES) -> tuple[int, bytes | None]:
        """Line number from 1 and bytes of a row as iter_lines gives them: None when it is above `limit`.

        Raises DataError (`data.file-changed`) when the file is not the one that was indexed.
        """
        entries = _read_at(self.file, row * _ENTRY.size, 2 * _ENTRY.size)
        if len(entries) < 2 * _ENTRY.size:
            raise self._changed("a shorter index")
        start, line = _ENTRY.unpack_from(entries)
        end, _ = _ENTRY.unpack_from(entries, _ENTRY.size)
        # One byte more at the front: a row begins after a line end, or the index is of another file.
        before = min(line - 1, 1)
        text = self._read_data(start - before, before + min(end - start, limit + 1))
        if before and text[:1] != b"\n":
            raise self._changed(f"no line end before line {line}")
        row_text, newline, _ = text[before:].partition(b"\n")
        return line, row_text + newline if newline or len(row_text) <= limit else None

    def _read_data(self, start: int, length: int) -> bytes:
        handle = os.open(self.data, os.O_RDONLY)
        try:
            facts = os.fstat(handle)
            if (facts.st_size, facts.st_mtime_ns) != (self.size, self.mtime_ns):
                raise self._changed(f"{facts.st_size:,} bytes, or another time of change")
            return os.pread(handle, length, start)
        finally:
            os.close(handle)

    def _changed(self, got: str) -> DataError:
        return file_changed(self.shown, got)


def open_index(data: Path, shown: str, needed: tuple[CachedFile, ...] = ()) -> LineIndex:
    """The index of a JSONL file, made now unless the cache has it. needed: the file itself where it lies in
    the cache.

    Raises DataError: `data.file-changed` when the file changes meanwhile, `data.cache` or `data.cache-full`
    when the index cannot be kept.
    """
    facts = data.stat()
    file = cached_path(data, "rows")
    index = write_cached(file, lambda: _is_whole(file), lambda: _scan(data, shown, facts.st_size), shown)
    now = data.stat()
    if (now.st_size, now.st_mtime_ns) != (facts.st_size, facts.st_mtime_ns):
        raise file_changed(shown, "a change while it was read")
    _, rows, _, sha256 = _read_footer(file)
    return LineIndex(
        data, shown, file, rows, sha256.hex(), facts.st_size, facts.st_mtime_ns, (*needed, index)
    )


def file_changed(shown: str, got: str) -> DataError:
    """The error for a data file that is not what it was when the run started."""
    return DataError(
        "the data file has changed since it was indexed",
        where=shown,
        got=got,
        hint="put the file back as it was and go on with --resume, or start a new run",
        code="data.file-changed",
    )


def _scan(data: Path, shown: str, size: int) -> Iterator[bytes]:
    """The bytes of the index of a file. Memory is one chunk and its entries."""
    sha256, checksum, length, at = hashlib.sha256(), 0, 0, 0
    lines = _LineScan()
    with data.open("rb", buffering=0) as file:
        while chunk := file.read(SCAN_BYTES):
            sha256.update(chunk)
            entries = lines.take(chunk).tobytes()
            checksum, length, at = zlib.crc32(entries, checksum), length + len(entries), at + len(chunk)
            yield entries
    if at != size:
        raise file_changed(shown, "a change while it was read")
    last = lines.finish().tobytes()
    rows = (length + len(last)) // _ENTRY.size - 1
    yield last
    yield _FOOTER.pack(_MAGIC, rows, zlib.crc32(last, checksum), sha256.digest())


class _LineScan:
    """Finds the lines of a file that is given in chunks. Lines that span chunks cost no memory."""

    def __init__(self) -> None:
        self._at = 0
        self._line = 1
        self._line_start = 0
        self._is_blank = True

    def take(self, chunk: bytes) -> NDArray[np.uint64]:
        """(offset, line number) of each row that ends in the chunk."""
        if self._at == 0 and chunk.startswith(codecs.BOM_UTF8):
            self._line_start = len(codecs.BOM_UTF8)
        bytes_C = np.frombuffer(chunk, np.uint8)
        ends_L = np.flatnonzero(bytes_C == _NEWLINE)
        lead = chunk[: ends_L[0]] if len(ends_L) else chunk
        self._is_blank &= not lead[max(self._line_start - self._at, 0) :].strip(_BLANK)
        if not len(ends_L):
            self._at += len(chunk)
            return np.empty((0, 2), np.uint64)
        starts_L = np.concatenate(([self._line_start - self._at], ends_L[:-1] + 1))
        is_row_L = _find_rows(chunk, bytes_C, starts_L, ends_L)
        is_row_L[0] = not self._is_blank
        lines_L = np.arange(self._line, self._line + len(ends_L))
        entries = np.stack((starts_L + self._at, lines_L), axis=1)[is_row_L].astype("<u8")
        rest = int(ends_L[-1]) + 1
        self._line += len(ends_L)
        self._line_start = self._at + rest
        self._is_blank = not chunk[rest:].strip(_BLANK)
        self._at += len(chunk)
        return entries

    def finish(self) -> NDArray[np.uint64]:
        """A last row without a line end, if there is one, and the entry for the end of the file."""
        entries = [] if self._is_blank else [(self._line_start, self._line)]
        return np.array([*entries, (self._at, 0)], dtype="<u8")


def _find_rows(
    chunk: bytes, bytes_C: NDArray[np.uint8], starts_L: NDArray[np.int64], ends_L: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which lines hold more than white space. The first one is left to the caller: it may begin earlier."""
    is_row_L = ends_L > starts_L
    first_L = bytes_C[np.maximum(starts_L, 0)]
    leads_L = is_row_L & np.isin(first_L, np.frombuffer(_BLANK, np.uint8))
    leads_L[0] = False
    for line in np.flatnonzero(leads_L).tolist():
        is_row_L[line] = bool(chunk[starts_L[line] : ends_L[line]].strip(_BLANK))
    return is_row_L


def _is_whole(file: Path) -> bool:
    """Whether the index is there and undamaged."""
    try:
        magic, rows, expected, _ = _read_footer(file)
        length = (rows + 1) * _ENTRY.size
        if magic != _MAGIC or file.stat().st_size != length + _FOOTER.size:
            return False
        checksum = 0
        with file.open("rb") as entries:
            while length and (chunk := entries.read(min(length, SCAN_BYTES))):
                checksum = zlib.crc32(chunk, checksum)
                length -= len(chunk)
    except (OSError, struct.error):
        return False
    return checksum == expected


def _read_footer(file: Path) -> tuple[bytes, int, int, bytes]:
    with file.open("rb") as index:
        index.seek(max(file.stat().st_size - _FOOTER.size, 0))
        return _FOOTER.unpack(index.read())


def _read_at(path: Path, start: int, length: int) -> bytes:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.pread(handle, length, start)
    finally:
        os.close(handle)
