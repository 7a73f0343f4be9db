"""Rows of the run's data that go to the engine for its proofs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tunewright.data.example_rows import MemoryRows
from tunewright.data.prepared import PreparedData
from tunewright.engines.batches import MOST_ROWS, MOST_TOKENS, Recent
from tunewright.engines.sample import take_pieces
from tunewright.errors import DataError
from tunewright.run.sample import sample_rows
from tunewright.types import Example, SourceRef


def example(*tokens: int) -> Example:
    return Example(np.array(tokens, np.int32), np.ones(len(tokens), np.float32), SourceRef("a", 1))


def data(*sources: MemoryRows, held_out: tuple[Example, ...] = ()) -> PreparedData:
    return PreparedData(tuple((rows, 1.0) for rows in sources), held_out, report=None)  # type: ignore[arg-type]


def listed(rows: Sequence[NDArray[np.int32]]) -> list[list[int]]:
    return [row.tolist() for row in rows]


class BadFirst(MemoryRows):
    """Its first row cannot be trained on, which is said when its turn comes."""

    def row(self, number: int) -> Sequence[Example]:
        if number == 0:
            raise DataError("no answer", where="a:1", code="data.empty")
        return super().row(number)


def test_a_sample_is_of_all_sources_in_turn_and_of_rows_that_can_be_read() -> None:
    first = BadFirst([[example(1, 2)], [example(3, 4), example(5, 6)], [], [example(9)]])
    second = MemoryRows([[example(7, 8, 9)]])
    assert listed(sample_rows(data(first, second, held_out=(example(1, 1),)))) == [
        [7, 8, 9], [3, 4], [5, 6], [1, 1],
    ]  # fmt: skip
    assert sample_rows(data()) == ()
    many = sample_rows(data(MemoryRows([[example(*range(MOST_TOKENS + 9))]] * (MOST_ROWS + 2))))
    assert [len(row) for row in many] == [MOST_TOKENS] * MOST_ROWS


def test_pieces_begin_where_a_row_does_and_have_the_length_asked_for() -> None:
    rows = [np.array([1, 2, 3], np.int32), np.array([4, 5], np.int32)]
    assert listed(take_pieces(rows, (2, 4, 5), 6)) == [[1, 2], [4, 5, 1, 2], [1, 2, 3, 4, 5]]


@pytest.mark.parametrize("rows", [[], [np.array([6], np.int32)]], ids=["no rows", "past the vocabulary"])
def test_pieces_without_rows_that_the_model_knows_are_drawn(rows: list[NDArray[np.int32]]) -> None:
    pieces = take_pieces(rows, (2, 40), 6)
    assert [len(piece) for piece in pieces] == [2, 40]
    assert set(pieces[1].tolist()) == set(range(6))


def test_before_the_first_step_recent_rows_are_those_of_the_sample() -> None:
    sample = [np.arange(300, dtype=np.int32) % 5, np.array([1, 9], np.int32)]
    assert [len(row) for row in Recent(sample).rows(vocabulary=8)] == [256]
