from __future__ import annotations

from collections import Counter
from itertools import islice
from time import process_time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.data.collate import BatchShape
from tunewright.data.example_rows import MemoryRows
from tunewright.data.step import StepRule
from tunewright.data.stream import StepStream, count_filled, eval_batches
from tunewright.errors import ConfigError, DataError
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


def make_stream(*sources: tuple[MemoryRows, float], seed: int = 0, **settings: Any) -> StepStream:
    return StepStream(sources, make_rule(**settings), seed=seed)


def make_rule(
    *,
    batch_size: int = 4,
    tokens_per_batch: int | None = None,
    packing: bool = True,
    rank: int = 0,
    world_size: int = 1,
) -> StepRule:
    return StepRule(batch_size, tokens_per_batch, BatchShape(2, 8, packing, 0), rank, world_size)


RULES = st.one_of(
    st.builds(lambda n: {"batch_size": n}, st.integers(1, 11)),
    st.builds(lambda n: {"tokens_per_batch": n}, st.integers(8, 60)),
)


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
    rule=RULES,
    packing=st.booleans(),
    world=st.integers(1, 17),
    cut=st.integers(0, 12),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_resumed_anywhere_equals_uninterrupted(
    rows: int, rule: dict[str, int], packing: bool, world: int, cut: int, seed: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, world - 1))
    sources = [(make_rows(rows), 1.0), (make_rows(5, "b"), 2.0)]
    whole_stream, resumed_stream = (
        make_stream(*sources, **rule, packing=packing, rank=rank, world_size=world, seed=seed)
        for _ in range(2)
    )
    whole = list(islice(whole_stream.steps(), cut + 6))
    position = whole[cut - 1].position if cut else 0
    resumed = list(islice(resumed_stream.steps(position), 6))
    assert [contents(step) for step in resumed] == [contents(step) for step in whole[cut:]]


@settings(max_examples=30)
@given(rows=st.integers(1, 40), rule=RULES)
def test_an_epoch_holds_each_row_once_and_steps_never_cross_it(rows: int, rule: dict[str, int]) -> None:
    stream = make_stream((make_rows(rows), 1.0), **rule)
    ends = [stream.count_steps(epochs) for epochs in (1, 2)]
    steps = list(islice(stream.steps(), ends[1]))
    for epoch, part in enumerate((steps[: ends[0]], steps[ends[0] :])):
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
    batches = eval_batches(rows, BatchShape(4, 8, packing=True, pad_id=0))
    assert sum(len(lengths) for batch in batches for lengths in batch.doc_lengths) == 600
    assert sum(batch.weights_BT.sum() for batch in batches) == sum(row.weights_T.sum() for row in rows)


def test_a_source_that_would_never_be_seen_is_refused() -> None:
    with pytest.raises(DataError, match="never be seen"):
        make_stream((make_rows(3), 0.1))
    with pytest.raises(DataError, match="no training data"):
        make_stream()


@settings(max_examples=25)
@given(rows=st.integers(1, 60), limit=st.integers(8, 60), seed=st.integers(0, 9))
def test_a_step_takes_rows_until_the_next_would_not_fit(rows: int, limit: int, seed: int) -> None:
    data = make_rows(rows)
    stream = make_stream((data, 1.0), tokens_per_batch=limit, seed=seed)
    one_by_one = make_stream((data, 1.0), batch_size=1, seed=seed)
    lengths = [step.tokens for step in islice(one_by_one.steps(), rows)]
    at = 0
    for step in islice(stream.steps(), stream.count_steps(1)):
        taken = lengths[at : step.position]
        assert step.tokens == sum(taken) <= limit
        assert step.position == rows or step.tokens + lengths[step.position] > limit
        at = step.position


@settings(max_examples=30)
@given(rows=st.integers(1, 30), rule=RULES, epochs=st.floats(0.01, 4))
def test_steps_are_counted_as_they_are_made(rows: int, rule: dict[str, int], epochs: float) -> None:
    stream = make_stream((make_rows(rows), 1.0), (make_rows(7, "b"), 1.5), **rule)
    wanted = next(n for n, step in enumerate(stream.steps(), start=1) if step.epoch >= epochs - 1e-9)
    assert stream.count_steps(epochs) == wanted


@given(lengths=st.lists(st.integers(1, 9), max_size=50), limit=st.integers(9, 40))
def test_filled_steps_equal_a_plain_count(lengths: list[int], limit: int) -> None:
    steps = tokens = 0
    for length in lengths:
        if not steps or tokens + length > limit:
            steps, tokens = steps + 1, 0
        tokens += length
    assert count_filled(np.array(lengths, np.int64), limit) == steps


def test_steps_of_a_million_rows_are_counted_at_once() -> None:
    lengths_N = np.random.default_rng(0).integers(20, 2000, 1_000_000)

    class Lengths(MemoryRows):
        def __len__(self) -> int:
            return len(lengths_N)

        def lengths(self) -> np.ndarray:
            return lengths_N.astype(np.int32)

    stream = make_stream((Lengths([]), 1.0), tokens_per_batch=2048)
    started = process_time()
    assert stream.count_steps(1) > lengths_N.sum() / 2048
    assert process_time() - started < 2


def test_a_row_that_fits_into_no_step_is_refused_before_the_start() -> None:
    with pytest.raises(ConfigError, match=r"tokens_per_batch.*got 7, and the longest row has 24 tokens"):
        make_stream((MemoryRows([[make_example(24)], [make_example(3)]]), 1.0), tokens_per_batch=7)


class LateRows(MemoryRows):
    """Rows whose lengths are known only once they are read."""

    def lengths(self) -> None:
        return None


def test_a_row_met_late_that_fits_into_no_step_is_a_step_of_its_own() -> None:
    rows = LateRows([[make_example(3)], [make_example(24)], [make_example(3)]])
    stream = make_stream((rows, 1.0), tokens_per_batch=7, packing=False)
    assert stream.count_steps(1) is None
    found = Counter(step.tokens for step in islice(stream.steps(), 9) if step.position <= 3)
    assert found in (Counter({3: 2, 24: 1}), Counter({6: 1, 24: 1}))


def test_steps_without_any_example_are_passed_over() -> None:
    rows = LateRows([[make_example(3)]] + [[]] * 20)
    stream = make_stream((rows, 1.0), batch_size=2)
    steps = list(islice(stream.steps(), 3))
    assert [step.tokens for step in steps] == [3, 3, 3]
    assert [-(-step.position // 21) for step in steps] == [1, 2, 3]
    with pytest.raises(DataError, match="no row is left to train on"):
        next(make_stream((LateRows([[]] * 20), 1.0)).steps(5))


@settings(max_examples=30)
@given(
    rows=st.integers(1, 40),
    rule=RULES,
    packing=st.booleans(),
    world=st.integers(1, 17),
    seed=st.integers(0, 9),
    skip=st.integers(0, 5),
)
def test_ranks_share_each_step(
    rows: int, rule: dict[str, int], packing: bool, world: int, seed: int, skip: int
) -> None:
    sources = [(make_rows(rows, parts=2), 1.0)]
    rule = {key: value * 2 for key, value in rule.items()}
    alone = make_stream(*sources, **rule, packing=packing, seed=seed).steps()
    ranks = [
        make_stream(*sources, **rule, packing=packing, seed=seed, rank=rank, world_size=world).steps()
        for rank in range(world)
    ]
    for whole, *shares in islice(zip(alone, *ranks, strict=True), skip, skip + 3):
        fields = ("position", "epoch", "examples", "loss_weight", "loss_tokens")
        assert all(getattr(share, f) == getattr(whole, f) for share in shares for f in fields)
        assert len({len(share.micro_batches) for share in shares}) == 1
        counts = [len(documents(share)) // 2 for share in shares]
        assert max(counts) - min(counts) <= 1
        assert sum(share.tokens for share in shares) == whole.tokens
        assert Counter(d for share in shares for d in documents(share)) == Counter(documents(whole))


def documents(step: StepBatch) -> list[tuple[bytes, bytes]]:
    """Tokens and weights of every document that has a label."""
    found: list[tuple[bytes, bytes]] = []
    for batch in step.micro_batches:
        for b, lengths in enumerate(batch.doc_lengths):
            for start, length in zip(np.cumsum((0, *lengths[:-1])), lengths, strict=True):
                piece = np.s_[b, start : start + length]
                if batch.weights_BT[piece].any():
                    found.append((batch.tokens_BT[piece].tobytes(), batch.weights_BT[piece].tobytes()))
    return found


def make_example(length: int) -> Example:
    return Example(np.ones(length, np.int32), np.ones(length, np.float32), SourceRef("a", 1))
