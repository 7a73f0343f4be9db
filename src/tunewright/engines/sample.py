"""Tokens for the proofs that an engine makes before the first step: of the run's own data where it is known.

Random tokens throw a trained model into a state that no text does, in which roundings grow without bound.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def take_pieces(
    sample: Sequence[NDArray[np.int32]], lengths: Sequence[int], vocabulary: int
) -> list[NDArray[np.int64]]:
    """A piece of text of each of `lengths`: the beginning of a row of `sample`, each time of the next one,
    with the rows after it behind where it is shorter. Seeded random tokens without rows, and where one holds
    a token past `vocabulary`, which the first step refuses by name."""
    rows = [row for row in sample if len(row)]
    if not rows or max(int(row.max()) for row in rows) >= vocabulary:
        draw = np.random.Generator(np.random.Philox(0))
        return [draw.integers(0, vocabulary, size=length) for length in lengths]
    return [_take(rows, number, length) for number, length in enumerate(lengths)]


def _take(rows: Sequence[NDArray[np.int32]], number: int, length: int) -> NDArray[np.int64]:
    found = np.empty(length, np.int64)
    filled = 0
    while filled < length:
        row = rows[number % len(rows)][: length - filled]
        found[filled : filled + len(row)] = row
        filled, number = filled + len(row), number + 1
    return found
