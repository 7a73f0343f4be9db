from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data.length import fit_length
from tunewright.types import Example, SourceRef


def make_example(length: int, *, first_label: int = 1) -> Example:
    weights_T = np.ones(length, np.float32)
    weights_T[:first_label] = 0
    return Example(np.arange(length, dtype=np.int32), weights_T, SourceRef("a", 1))


@pytest.mark.parametrize("rule", ["error", "truncate", "split", "drop"])
def test_a_row_that_fits_is_kept_as_it_is(rule: str) -> None:
    example = make_example(8)
    fit = fit_length([example], 8, rule)
    assert fit.outcome == "kept"
    assert fit.examples == (example,)


@pytest.mark.parametrize(("rule", "outcome"), [("error", "too long"), ("drop", "dropped")])
def test_error_and_drop_leave_nothing(rule: str, outcome: str) -> None:
    fit = fit_length([make_example(9)], 8, rule)
    assert (fit.outcome, fit.examples) == (outcome, ())


def test_truncate_keeps_the_beginning() -> None:
    fit = fit_length([make_example(20)], 8, "truncate")
    assert fit.outcome == "cut"
    assert [example.tokens_T.tolist() for example in fit.examples] == [list(range(8))]


def test_truncate_with_no_label_left_says_so() -> None:
    fit = fit_length([make_example(20, first_label=8)], 8, "truncate")
    assert (fit.outcome, fit.examples) == ("cut to nothing", ())


@given(length=st.integers(9, 200), seq_len=st.integers(8, 60), first_label=st.integers(1, 200))
def test_split_keeps_every_label_once(length: int, seq_len: int, first_label: int) -> None:
    example = make_example(length, first_label=min(first_label, length - 1))
    fit = fit_length([example], seq_len, "split")
    labels = [t for part in fit.examples for t, w in zip(part.tokens_T, part.weights_T, strict=True) if w]
    assert labels == [t for t, w in zip(example.tokens_T, example.weights_T, strict=True) if w]
    assert all(len(part) <= seq_len and part.weights_T[0] == 0 for part in fit.examples)
