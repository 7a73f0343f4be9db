from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data.collate import WIDTH_STEP, BatchShape, build_empty_batch, collate, count_batches
from tunewright.data.pack import pack_lengths
from tunewright.data.shard import rank_rows
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


# Tokens of instruction data at these quantiles: 999 rows of Alpaca at 4.2 characters a token, and 14 more for
# the chat template.
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)
LENGTHS = (23, 37, 61, 153, 320, 492, 610, 709)


@pytest.mark.parametrize("seq_len", [1024, 2048])
@pytest.mark.parametrize(
    ("examples", "fill"), [(16, 0.975), (32, 0.985), (64, 0.99), (128, 0.993), (256, 0.995)]
)
def test_most_of_what_is_computed_is_tokens(examples: int, fill: float, seq_len: int) -> None:
    rng = np.random.default_rng(examples)
    tokens = computed = 0
    for _ in range(20):
        lengths = np.interp(rng.random(examples), QUANTILES, LENGTHS).astype(int).tolist()
        batches = collate(make_examples(lengths), BatchShape(1, seq_len, True, PAD))
        tokens += sum(lengths)
        computed += sum(batch.tokens_BT.size for batch in batches)
    assert tokens / computed > fill


def test_ranks_compute_about_as_much_as_one() -> None:
    rng = np.random.default_rng(0)
    lengths = np.interp(rng.random(256), QUANTILES, LENGTHS).astype(int).tolist()
    tokens = [sum(lengths[row] for row in share) for share in rank_rows(lengths, 8)]
    assert max(tokens) < 1.002 * sum(lengths) / 8


@given(lengths=lengths_lists, rows=st.integers(1, 4), packing=st.booleans())
def test_micro_batches_are_counted_as_they_are_made(lengths: list[int], rows: int, packing: bool) -> None:
    shape = BatchShape(rows, 16, packing, PAD)
    assert count_batches(lengths, shape) == len(collate(make_examples(lengths), shape))


@given(lengths=lengths_lists)
def test_without_padding_each_example_is_a_batch_of_its_length(lengths: list[int]) -> None:
    shape = BatchShape(4, 16, packing=False, pad_id=PAD, padding=False)
    batches = collate(make_examples(lengths), shape)
    assert sorted(batch.tokens_BT.shape for batch in batches) == sorted((1, length) for length in lengths)
    assert len(batches) == count_batches(lengths, shape)


def test_an_empty_micro_batch_has_no_label_and_no_row_of_padding_alone() -> None:
    batch = build_empty_batch(PAD)
    assert batch.tokens_BT.shape == (1, WIDTH_STEP)
    assert batch.doc_lengths == ((WIDTH_STEP,),)
    assert batch.positions_BT[0].tolist() == list(range(WIDTH_STEP))
    assert not batch.weights_BT.any()


def test_an_example_above_the_capacity_is_refused() -> None:
    with pytest.raises(DataError, match="17 tokens does not fit"):
        pack_lengths([17], 16)


def test_weight_of_a_first_token_never_leaks_into_the_document_before() -> None:
    tainted = Example(np.array([5, 6], np.int32), np.array([1.0, 1.0], np.float32), SourceRef("rows", 1))
    (batch,) = collate([tainted, tainted], BatchShape(1, 8, True, PAD))
    assert batch.weights_BT.tolist() == [[0, 1, 0, 1] + [0] * (WIDTH_STEP - 4)]
