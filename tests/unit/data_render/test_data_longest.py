"""The longest micro-batch of a run, against those that its steps really hold."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from tunewright.data.collate import BatchShape
from tunewright.data.example_rows import ExampleRows, MemoryRows
from tunewright.data.longest import find_longest_pass
from tunewright.data.step import StepRule
from tunewright.data.stream import StepStream
from tunewright.types import Example, SourceRef

SEQ_LEN = 160
LENGTHS = (40, 50, 61, 70, 129, 150, 30, 20)


def _example(length: int, line: int = 1) -> Example:
    tokens = np.full(length, line, np.int32)
    return Example(tokens, np.ones(length, np.float32), SourceRef("rows.jsonl", line))


def _rows(*lengths: int) -> MemoryRows:
    return MemoryRows([_example(length, line)] for line, length in enumerate(lengths, start=1))


class UnreadRows(MemoryRows):
    """Rows of which nothing is known before they are read."""

    def lengths(self) -> None:  # type: ignore[override]
        return None


def _rule(*, rows: int = 2, packing: bool = True, batch_size: int = 3, tokens: int | None = None) -> StepRule:
    return StepRule(batch_size, tokens, BatchShape(rows, SEQ_LEN, packing, pad_id=0))


def _find(rule: StepRule, rows: ExampleRows, weight: float = 1.0):
    return find_longest_pass([(rows, weight)], rule, largest_id=9)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("weight", [1.0, 2.0, 0.7, 1.6])
@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("step", [{}, {"batch_size": 8}, {"tokens": 200}])
def test_no_step_holds_a_larger_micro_batch(packing, weight, rows, step):
    rule = _rule(rows=rows, packing=packing, **step)
    found = _find(rule, _rows(*LENGTHS), weight)
    steps = list(islice(StepStream([(_rows(*LENGTHS), weight)], rule, seed=0).steps(), 100))
    widest = max(batch.tokens_BT.size for one in steps for batch in one.micro_batches)
    tried = found.micro_batches[0].tokens_BT.size
    # Whether the longest rows meet within 100 steps is luck; half of them is not.
    assert widest <= tried <= 2 * widest
    if len(found.micro_batches) == 1:
        assert all(len(one.micro_batches) == 1 for one in steps)


def test_a_packed_micro_batch_is_full_of_the_longest_rows_the_last_one_cut():
    (batch, again) = _find(_rule(rows=1), _rows(*LENGTHS)).micro_batches
    assert batch is again
    assert batch.doc_lengths == ((150, 10),)
    assert set(batch.tokens_BT[0, :160].tolist()) == {6, 5}


def test_a_step_of_one_micro_batch_is_computed_once():
    (batch,) = _find(_rule(rows=3), _rows(*LENGTHS)).micro_batches
    assert batch.doc_lengths == ((150, 129, 70),)


def test_tokens_per_batch_is_the_most_that_a_packed_micro_batch_holds():
    (batch,) = _find(_rule(rows=3, tokens=200), _rows(*LENGTHS)).micro_batches
    assert sum(batch.doc_lengths[0]) == 200


def test_padded_rows_are_the_longest_examples_of_all_sources():
    sources = [(_rows(20, 90), 1.0), (_rows(150, 30, 140), 1.0)]
    found = find_longest_pass(sources, _rule(packing=False), largest_id=9)
    assert found.micro_batches[0].doc_lengths == ((150,), (140,))
    assert (str(found.longest.source), len(found.longest)) == ("rows.jsonl:1", 150)
    assert found.is_data


def test_the_longest_example_may_be_of_a_shorter_row():
    parts = [_example(80), _example(80)]
    found = _find(_rule(packing=False, rows=1, batch_size=1), MemoryRows([parts, [_example(150)]]))
    assert found.micro_batches[0].doc_lengths == ((150,),)


def test_a_row_that_comes_twice_in_a_step_counts_twice():
    (batch,) = _find(_rule(rows=2, batch_size=2), _rows(150, 20, 20), weight=2.0).micro_batches
    assert batch.doc_lengths == ((150, 150),)


@pytest.mark.parametrize(("packing", "size"), [(True, 2 * SEQ_LEN), (False, 2 * 192)])
def test_rows_that_nobody_has_read_are_full_and_every_token_is_a_label(packing: bool, size: int):
    found = _find(_rule(packing=packing), UnreadRows([[_example(5)]]))
    batch = found.micro_batches[0]
    assert batch.tokens_BT.size == size
    assert (int(batch.tokens_BT.max()), int((batch.weights_BT > 0).sum())) == (9, 2 * (SEQ_LEN - 1))
    assert (found.is_data, len(found.micro_batches)) == (False, 2)


def test_a_pipe_counts_as_full_rows():
    found = find_longest_pass([], _rule(), largest_id=9)
    assert (found.is_data, found.micro_batches[0].doc_lengths) == (False, ((SEQ_LEN, SEQ_LEN),))


def test_few_rows_make_a_small_micro_batch():
    found = _find(_rule(packing=False, rows=3), _rows(40))
    assert found.micro_batches[0].doc_lengths == ((40,),)
    assert len(found.micro_batches) == 1
