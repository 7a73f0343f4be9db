from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data.collate import WIDTH_STEP, BatchShape, collate
from tunewright.data.pack import pack_lengths
from tunewright.errors import DataError
from tunewright.types import Batch, Example, SourceRef

PAD = 0
lengths_lists = st.lists(st.integers(1, 16), min_size=1, max_size=40)


def make_examples(lengths: list[int]) -> list[Example]:
    """Examples whose tokens and weights are all different, so that each can be found again."""
    examples: list[Example] = []
    at = 1
    for line, length in enumerate(lengths, start=1):
        tokens_T = np.arange(at, at + length, dtype=np.int32)
        weights_T = (tokens_T % 7).astype(np.float32) / 4
        weights_T[0] = 0
        examples.append(Example(tokens_T, weights_T, SourceRef("rows", line)))
        at += length
    return examples


def read_documents(batches: tuple[Batch, ...]) -> list[tuple[list[int], list[int], list[float]]]:
    """Tokens, positions and weights of every document in the batches."""
    documents: list[tuple[list[int], list[int], list[float]]] = []
    for batch in batches:
        for b, lengths in enumerate(batch.doc_lengths):
            at = 0
            for length in lengths:
                piece = np.s_[b, at : at + length]
                documents.append(
                    (
                        batch.tokens_BT[piece].tolist(),
                        batch.positions_BT[piece].tolist(),
                        batch.weights_BT[piece].tolist(),
                    )
                )
                at += length
            assert not batch.weights_BT[b, at:].any()
            assert (batch.tokens_BT[b, at:] == PAD).all()
    return documents


@given(lengths=lengths_lists, rows=st.integers(1, 4), packing=st.booleans())
def test_each_document_survives_whole_with_its_weights(lengths: list[int], rows: int, packing: bool) -> None:
    examples = make_examples(lengths)
    documents = read_documents(collate(examples, BatchShape(rows, 16, packing, PAD)))
    expected = [(e.tokens_T.tolist(), list(range(len(e))), e.weights_T.tolist()) for e in examples]
    assert sorted(documents) == sorted(expected)


@given(lengths=lengths_lists, rows=st.integers(1, 4))
def test_packed_rows_hold_at_most_their_capacity_and_little_padding(lengths: list[int], rows: int) -> None:
    for batch in collate(make_examples(lengths), BatchShape(rows, 16, True, PAD)):
        tokens = sum(batch.doc_lengths[0])
        assert tokens <= rows * 16
        assert batch.tokens_BT.shape == (1, rounded_up(tokens))


def rounded_up(tokens: int) -> int:
    return (tokens + WIDTH_STEP - 1) // WIDTH_STEP * WIDTH_STEP


@given(lengths=lengths_lists, rows=st.integers(1, 4))
def test_padded_batches_are_as_wide_as_their_longest_row(lengths: list[int], rows: int) -> None:
    batches = collate(make_examples(lengths), BatchShape(rows, 16, False, PAD))
    for batch in batches:
        longest = max(n for (n,) in batch.doc_lengths)
        assert batch.tokens_BT.shape == (len(batch.doc_lengths), rounded_up(longest))
    assert all(len(batch.doc_lengths) == rows for batch in batches[:-1])


def test_packing_fills_well() -> None:
    lengths = np.random.default_rng(0).integers(20, 1000, size=64).tolist()
    bins = pack_lengths(lengths, 2048)
    assert sum(lengths) / (len(bins) * 2048) > 0.95


def test_an_example_above_the_capacity_is_refused() -> None:
    with pytest.raises(DataError, match="17 tokens does not fit"):
        pack_lengths([17], 16)


def test_weight_of_a_first_token_never_leaks_into_the_document_before() -> None:
    tainted = Example(np.array([5, 6], np.int32), np.array([1.0, 1.0], np.float32), SourceRef("rows", 1))
    (batch,) = collate([tainted, tainted], BatchShape(1, 8, True, PAD))
    assert batch.weights_BT.tolist() == [[0, 1, 0, 1] + [0] * (WIDTH_STEP - 4)]
