"""What every engine asks of a micro-batch before it computes, without the library that computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tunewright.engines.sample import take_pieces
from tunewright.errors import ModelError
from tunewright.types import Batch, LossSums

MOST_ROWS = 8
MOST_TOKENS = 256


def check_tokens(batch: Batch, vocabulary: int) -> None:
    """Raise ModelError for a token that has no row in an embedding of `vocabulary` rows."""
    largest = int(batch.tokens_BT.max(initial=0))
    if largest >= vocabulary:
        raise ModelError(
            "the tokenizer makes tokens that the model has no embedding for",
            where="model.name",
            got=f"token {largest}",
            expected=f"at most {vocabulary - 1}",
            hint="use the tokenizer that the model was trained with, without added tokens",
            code="model.vocabulary",
        )


def count_labels(batch: Batch) -> LossSums:
    """Weight and number of labels, known before anything is computed."""
    weights = batch.weights_BT[:, 1:]
    return LossSums(weight=float(weights.sum(dtype="float64")), tokens=int((weights > 0).sum()))


def document_places(batch: Batch) -> Iterator[tuple[int, slice]]:
    """(row, columns) of each document, in order."""
    for row, lengths in enumerate(batch.doc_lengths):
        start = 0
        for length in lengths:
            yield row, slice(start, start + length)
            start += length


class Recent:
    """The last documents trained on, for proofs on real text. Keeps one micro-batch of NumPy arrays.

    sample: rows of the same data, for an export before the first step of this process.
    """

    def __init__(self, sample: Sequence[NDArray[np.int32]] = ()) -> None:
        self._sample = sample
        self._batch: Batch | None = None

    def remember(self, micro_batches: Sequence[Batch]) -> None:
        """Keep the first micro-batch of a step."""
        if micro_batches:
            self._batch = micro_batches[0]

    def rows(self, vocabulary: int) -> list[NDArray[np.int64]]:
        """Up to 8 documents of up to 256 tokens, of the sample when nothing was trained on yet; seeded random
        tokens without either."""
        batch = self._batch
        if batch is None:
            rows = [row for row in self._sample if int(row.max(initial=0)) < vocabulary]
        else:
            rows = [batch.tokens_BT[at] for at in document_places(batch)]
        found = [row[:MOST_TOKENS].astype(np.int64) for row in rows if len(row) > 1][:MOST_ROWS]
        return found or take_pieces((), [64] * MOST_ROWS, vocabulary)
