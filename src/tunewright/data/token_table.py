"""Tokenised rows of a source as one flat file or buffer, read by number through a memory map.

Layout: per example its tokens (int32) and then its loss weights (float32), so that reading one touches one
place; then per example its length, per row its number of examples, file, line and fingerprint; then the
counts of the data report as JSON; at the end a footer with sizes and a checksum. All little endian.
It is written front to back, so tokenising needs memory for the rows at hand and 36 bytes a row.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.cache import CachedFile
from tunewright.data.faults import Faults
from tunewright.data.token_block import RowTokeniser, TokenBlock
from tunewright.types import Example, SourceRef

# Array letters: W words of all examples, E examples, R rows, T tokens of an example.

PRINT_BYTES = 16
_FOOTER = struct.Struct("<8sQQQQI")  # magic, words, examples, rows, bytes of the facts, CRC-32 of all before
_MAGIC = b"TWTOKENS"
_READ_BYTES = 4 * 2**20


class DamagedTable(Exception):
    """What was read is not a whole token table."""


@dataclass(frozen=True, slots=True)
class TokenTable:
    """The rows of a source that can be trained on. facts: format, found, rows_read, largest_id, files and
    counts (RowSurvey.to_json). cached: where they lie."""

    words_W: NDArray[np.int32]
    starts_E: NDArray[np.int64]
    lengths_E: NDArray[np.int32]
    first_R: NDArray[np.int64]
    files_R: NDArray[np.int32]
    lines_R: NDArray[np.int64]
    prints: bytes
    facts: dict[str, Any]
    cached: CachedFile | None = None

    def __len__(self) -> int:
        return len(self.lines_R)

    def row(self, number: int) -> tuple[Example, ...]:
        """The examples of a row; their arrays are views that cannot be written."""
        source = self.source(number)
        end = self.first_R[number + 1] if number + 1 < len(self) else len(self.lengths_E)
        return tuple(self._example(at, source) for at in range(int(self.first_R[number]), int(end)))

    def source(self, number: int) -> SourceRef:
        """Where a row came from."""
        return SourceRef(self.facts["files"][self.files_R[number]], int(self.lines_R[number]))

    def row_lengths(self) -> NDArray[np.int32]:
        """Tokens of each row."""
        if not len(self):
            return np.empty(0, np.int32)
        return np.add.reduceat(self.lengths_E, self.first_R, dtype=np.int32)

    def fingerprints(self) -> list[bytes]:
        """holdout.fingerprint of each row."""
        return [self.prints[at : at + PRINT_BYTES] for at in range(0, len(self.prints), PRINT_BYTES)]

    def example_bytes(self, row: int) -> Iterator[tuple[int, memoryview]]:
        """Length of each example of a row, and its tokens and weights as they lie in the file."""
        end = self.first_R[row + 1] if row + 1 < len(self) else len(self.lengths_E)
        for at in range(int(self.first_R[row]), int(end)):
            start, length = int(self.starts_E[at]), int(self.lengths_E[at])
            yield length, self.words_W[start : start + 2 * length].data

    def _example(self, number: int, source: SourceRef) -> Example:
        start, length = int(self.starts_E[number]), int(self.lengths_E[number])
        tokens_T = self.words_W[start : start + length]
        return Example(tokens_T, self.words_W[start + length : start + 2 * length].view("<f4"), source)


def iter_table(tokeniser: RowTokeniser, found: str, blocks: Iterable[TokenBlock]) -> Iterator[bytes]:
    """The bytes of the table of a source whose rows come as `blocks`. found: how its format was decided."""
    columns = _Columns(tokeniser)
    checksum = 0
    for block in blocks:
        columns.add(block)
        checksum = zlib.crc32(block.words, checksum)
        yield block.words
    facts = json.dumps({"format": tokeniser.format, "found": found, **columns.facts()}).encode()
    tail = b"".join((*columns.arrays(), facts))
    yield tail
    yield _FOOTER.pack(_MAGIC, *columns.sizes(), len(facts), zlib.crc32(tail, checksum))


def parse_table(buffer: bytes | mmap.mmap) -> TokenTable:
    """The table in a buffer, whatever its checksum. Raises DamagedTable for sizes that cannot be."""
    if len(buffer) < _FOOTER.size:
        raise DamagedTable("too short")
    magic, words, examples, rows, fact_bytes, _ = _FOOTER.unpack_from(buffer, len(buffer) - _FOOTER.size)
    sizes = (4 * words, 4 * examples, 4 * rows, 4 * rows, 8 * rows, PRINT_BYTES * rows, fact_bytes)
    if magic != _MAGIC or sum(sizes) + _FOOTER.size != len(buffer):
        raise DamagedTable("another size than its footer says")
    at = [0, *np.cumsum(sizes).tolist()]
    lengths_E = np.frombuffer(buffer, "<i4", examples, at[1])
    parts_R = np.frombuffer(buffer, "<i4", rows, at[2])
    return TokenTable(
        words_W=np.frombuffer(buffer, "<i4", words, at[0]),
        starts_E=2 * (np.cumsum(lengths_E, dtype=np.int64) - lengths_E),
        lengths_E=lengths_E,
        first_R=np.cumsum(parts_R, dtype=np.int64) - parts_R,
        files_R=np.frombuffer(buffer, "<i4", rows, at[3]),
        lines_R=np.frombuffer(buffer, "<i8", rows, at[4]),
        prints=bytes(buffer[at[5] : at[6]]),
        facts=json.loads(buffer[at[6] : at[7]]),
    )


def map_table(path: Path) -> TokenTable:
    """The table in a file, mapped into memory. Raises DamagedTable unless it is whole, and OSError."""
    _check_sum(path)
    with path.open("rb") as file:
        return parse_table(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class _Columns:
    """What is known of each row, while the rows come in."""

    def __init__(self, tokeniser: RowTokeniser) -> None:
        self._lengths, self._parts, self._files = array("i"), array("i"), array("i")
        self._lines = array("q")
        self._prints = bytearray()
        self._names: dict[str, int] = {}
        self._rows_read = self._words = 0
        self._largest_id = -1
        self._faults = Faults()
        self._tokeniser, self._survey = tokeniser, tokeniser.survey()

    def add(self, block: TokenBlock) -> None:
        self._rows_read += block.rows_read
        self._words += len(block.words) // 4
        self._lengths.extend(block.lengths)
        self._parts.extend(block.parts)
        self._files.extend(self._names.setdefault(name, len(self._names)) for name, _ in block.places)
        self._lines.extend(line for _, line in block.places)
        self._prints += block.prints
        self._largest_id = max(self._largest_id, block.largest_id)
        self._survey.add_json(block.counts)
        self._faults.extend(block.faults, block.fault_count)

    def sizes(self) -> tuple[int, int, int]:
        return self._words, len(self._lengths), len(self._parts)

    def arrays(self) -> list[bytes]:
        typed = [(self._lengths, "<i4"), (self._parts, "<i4"), (self._files, "<i4"), (self._lines, "<i8")]
        return [*(np.asarray(values).astype(kind).tobytes() for values, kind in typed), bytes(self._prints)]

    def facts(self) -> dict[str, Any]:
        # Rows that cannot be read come first in the report, whatever their place in the file.
        survey = self._tokeniser.survey()
        for error in self._faults.kept:
            survey.add_error(error)
        if unlisted := self._faults.count - len(self._faults.kept):
            survey.add_unlisted_errors(self._tokeniser.source.path, unlisted)
        survey.add_json(self._survey.to_json())
        return {
            "rows_read": self._rows_read,
            "largest_id": self._largest_id,
            "files": list(self._names),
            "counts": survey.to_json(),
        }


def _check_sum(path: Path) -> None:
    """Raise DamagedTable unless the checksum of the file holds. Read, not mapped: mapped pages would count as
    memory of the process."""
    with path.open("rb") as file:
        left = max(path.stat().st_size - _FOOTER.size, 0)
        checksum = 0
        while left and (chunk := file.read(min(left, _READ_BYTES))):
            checksum = zlib.crc32(chunk, checksum)
            left -= len(chunk)
        footer = file.read()
    if len(footer) != _FOOTER.size or _FOOTER.unpack(footer)[-1] != checksum:
        raise DamagedTable("another checksum")
