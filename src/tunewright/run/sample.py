"""Rows of the run's own data for the proofs that an engine makes before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from tunewright.data.prepared import PreparedData
from tunewright.engines.batches import MOST_ROWS, MOST_TOKENS
from tunewright.errors import DataError
from tunewright.types import Example

# Rows that are left out or bad are passed over, and a source may hold nothing else.
_ROWS_LOOKED_AT = 64


def sample_rows(data: PreparedData) -> tuple[NDArray[np.int32], ...]:
    """Tokens of the first few examples of all sources in turn, the same in every start of a run; of held-out
    ones where rows come through a pipe, which is not waited for here. Empty where there are none."""
    found = (example.tokens_T[:MOST_TOKENS] for example in chain(_first(data), data.eval_examples))
    return tuple(islice((tokens_T for tokens_T in found if len(tokens_T) > 1), MOST_ROWS))


def _first(data: PreparedData) -> Iterator[Example]:
    for number in range(_ROWS_LOOKED_AT):
        for rows, _ in data.train_sources:
            if number < len(rows):
                try:
                    examples = rows.row(number)
                except DataError:
                    continue  # named when its turn comes
                yield from examples
