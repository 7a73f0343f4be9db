"""Rows of a token table for a stream of steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.data.example_rows import Digest
from tunewright.data.token_table import TokenTable
from tunewright.types import Example

# Array letters: N rows taken from the table.


@dataclass(frozen=True, slots=True)
class TableRows:
    """Implements ExampleRows: the rows of a table with these numbers."""

    table: TokenTable
    numbers_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers_N)

    def row(self, number: int) -> tuple[Example, ...]:
        return self.table.row(int(self.numbers_N[number]))

    def lengths(self) -> NDArray[np.int32]:
        return self.table.row_lengths()[self.numbers_N]

    def known(self) -> Iterator[Example]:
        return (example for number in self.numbers_N.tolist() for example in self.table.row(number))

    def update_digest(self, digest: Digest, weight: float) -> None:
        """As MemoryRows does. The table holds tokens and weights as they go into the digest."""
        count = int(np.diff(self.table.first_R, append=len(self.table.lengths_E))[self.numbers_N].sum())
        digest.update(f"source {count} {weight!r}\n".encode())
        for number in self.numbers_N.tolist():
            for length, content in self.table.example_bytes(number):
                digest.update(length.to_bytes(8, "little"))
                digest.update(content)
