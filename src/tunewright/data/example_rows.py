"""Tokenised rows by number: the one thing a stream of steps asks of a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tunewright.types import Example


class Digest(Protocol):
    """What hashlib's objects offer."""

    def update(self, data: bytes | memoryview, /) -> None: ...


class ExampleRows(Protocol):
    """Rows of one source, in any order, as often as asked for."""

    def __len__(self) -> int:
        """Rows, whatever each of them holds."""
        ...

    def row(self, number: int) -> Sequence[Example]:
        """The examples of a row: one, several parts, or none when the length rule leaves the row out.

        The same at every call. Raises DataError for a row that cannot be trained on."""
        ...

    def lengths(self) -> NDArray[np.int32] | None:
        """Tokens of each row by its number; None where they are known only once a row is read."""
        ...

    def update_digest(self, digest: Digest, weight: float) -> None:
        """Add what says whether another run sees the same rows with this weight."""
        ...


class MemoryRows:
    """Rows held in memory."""

    def __init__(self, rows: Iterable[Sequence[Example]]) -> None:
        self._rows = [tuple(row) for row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> Sequence[Example]:
        return self._rows[number]

    def lengths(self) -> NDArray[np.int32]:
        return np.array([sum(map(len, row)) for row in self._rows], dtype=np.int32)

    def known(self) -> Iterator[Example]:
        return (example for row in self._rows for example in row)

    def update_digest(self, digest: Digest, weight: float) -> None:
        """Every token and loss weight in order, so tokenizer and template are in it too."""
        digest.update(f"source {sum(map(len, self._rows))} {weight!r}\n".encode())
        for example in self.known():
            digest.update(len(example).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(example.tokens_T, dtype="<i4").data)
            digest.update(np.ascontiguousarray(example.weights_T, dtype="<f4").data)
