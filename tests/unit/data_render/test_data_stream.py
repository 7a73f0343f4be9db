from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.data.example_rows import MemoryRows
from tunewright.data.stream import StepStream, eval_batches
from tunewright.errors import DataError
from tunewright.types import Example, SourceRef, StepBatch


def make_rows(count: int, name: str = "a", parts: int = 1) -> MemoryRows:
    rng = np.random.default_rng(count)
    rows: list[list[Example]] = []
    for line in range(1, count + 1):
        examples: list[Example] = []
        for part in range(parts):
            length = int(rng.integers(2, 9))
            tokens_T = np.full(length, line * 10 + part, np.int32)
            weights_T = np.ones(length, np.float32)
            weights_T[0] = 0
            examples.append(Example(tokens_T, weights_T, SourceRef(name, line)))
        rows.append(examples)
    return MemoryRows(rows)


def make_stream(*sources: tuple[MemoryRows, float], **settings: object) -> StepStream:
    values = {"batch_size": 4, "micro_batch_size": 2, "seq_len": 8, "packing": True, "seed": 0, "pad_id": 0}
    return StepStream(sources, **{**values, **settings})  # type: ignore[arg-type]


def contents(step: StepBatch) -> tuple[object, ...]:
    batches = tuple(
        (b.tokens_BT.tobytes(), b.weights_BT.tobytes(), b.doc_lengths) for b in step.micro_batches
    )
    return (
        batches,
        step.position,
        step.epoch,
        step.loss_weight,
        step.loss_tokens,
        step.tokens,
        step.examples,
    )


def rows_seen(step: StepBatch) -> list[int]:
    seen: list[int] = []
    for batch in step.micro_batches:
        for b, lengths in enumerate(batch.doc_lengths):
            starts = np.cumsum((0, *lengths[:-1]))
            seen += batch.tokens_BT[b, starts].tolist()
    return seen


@settings(max_examples=40)
@given(
    rows=st.integers(1, 30),
    batch=st.integers(1, 9),
    cut=st.integers(0, 12),
    packing=st.booleans(),
    seed=st.integers(0, 9),
)
def test_resumed_anywhere_equals_uninterrupted(
    rows: int, batch: int, cut: int, packing: bool, seed: int
) -> None:
    stream = make_stream(
        (make_rows(rows), 1.0), (make_rows(5, "b"), 2.0), batch_size=batch, packing=packing, seed=seed
    )
    whole = list(islice(stream.steps(), cut + 6))
    position = whole[cut - 1].position if cut else 0
    resumed = list(islice(stream.steps(position), 6))
    assert [contents(step) for step in resumed] == [contents(step) for step in whole[cut:]]


@given(rows=st.integers(1, 40), batch=st.integers(1, 11))
def test_an_epoch_holds_each_row_once_and_steps_never_cross_it(rows: int, batch: int) -> None:
    stream = make_stream((make_rows(rows), 1.0), batch_size=batch)
    steps = list(islice(stream.steps(), 2 * stream.steps_per_epoch))
    for epoch in (0, 1):
        part = steps[epoch * stream.steps_per_epoch : (epoch + 1) * stream.steps_per_epoch]
        assert sorted(row for step in part for row in rows_seen(step)) == [10 * n for n in range(1, rows + 1)]
        assert part[-1].position == rows * (epoch + 1)
        assert part[-1].epoch == epoch + 1


def test_all_parts_of_a_row_fall_in_one_step() -> None:
    stream = make_stream((make_rows(10, parts=3), 1.0), batch_size=3)
    assert stream.rows_per_epoch == 10
    for step in islice(stream.steps(), 4):
        seen = rows_seen(step)
        assert len(seen) == 3 * step.examples
        assert all(sum(row // 10 == n for row in seen) == 3 for n in {row // 10 for row in seen})


def test_packing_changes_neither_rows_nor_sums() -> None:
    rows = make_rows(23)
    packed, padded = (make_stream((rows, 1.0), packing=packing) for packing in (True, False))
    for a, b in zip(islice(packed.steps(), 12), islice(padded.steps(), 12), strict=True):
        assert sorted(rows_seen(a)) == sorted(rows_seen(b))
        assert (a.loss_weight, a.loss_tokens, a.tokens, a.position) == (
            b.loss_weight,
            b.loss_tokens,
            b.tokens,
            b.position,
        )


def test_sums_of_a_step() -> None:
    weights_T = np.array([0, 0, 0.5, 1], np.float32)
    row = Example(np.arange(4, dtype=np.int32), weights_T, SourceRef("a", 1))
    step = next(make_stream((MemoryRows([[row]]), 1.0)).steps())
    assert (step.loss_weight, step.loss_tokens, step.tokens, step.examples) == (1.5, 2, 4, 1)


def test_the_global_random_state_is_untouched() -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    next(make_stream((make_rows(9), 1.0)).steps())
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


def test_eval_batches_hold_each_example_once() -> None:
    rows = list(make_rows(600).known())
    batches = eval_batches(rows, micro_batch_size=4, seq_len=8, packing=True, pad_id=0)
    assert sum(len(lengths) for batch in batches for lengths in batch.doc_lengths) == 600
    assert sum(batch.weights_BT.sum() for batch in batches) == sum(row.weights_T.sum() for row in rows)


def test_a_source_that_would_never_be_seen_is_refused() -> None:
    with pytest.raises(DataError, match="never be seen"):
        make_stream((make_rows(3), 0.1))
    with pytest.raises(DataError, match="no training data"):
        make_stream()
