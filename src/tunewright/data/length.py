"""The rule for rows above `seq_len`: refuse, cut, split or leave out. Always counted, never silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tunewright.types import Example

Outcome = Literal["kept", "cut", "split", "too long", "cut to nothing", "dropped"]


@dataclass(frozen=True, slots=True)
class Fit:
    """What became of a row. Only "kept", "cut" and "split" leave examples to train on."""

    outcome: Outcome
    examples: tuple[Example, ...]


def fit_length(examples: Sequence[Example], seq_len: int, overlong: str) -> Fit:
    """Apply `data.overlong` to the examples of one row."""
    if all(len(example) <= seq_len for example in examples):
        return Fit("kept", tuple(examples))
    if overlong == "error":
        return Fit("too long", ())
    if overlong == "drop":
        return Fit("dropped", ())
    divide = _split if overlong == "split" else _truncate
    parts = [part for example in examples for part in divide(example, seq_len)]
    trained = tuple(part for part in parts if part.weights_T.any())
    if not trained:
        return Fit("cut to nothing", ())
    return Fit("split" if overlong == "split" else "cut", trained)


def _truncate(example: Example, seq_len: int) -> list[Example]:
    return [Example(example.tokens_T[:seq_len], example.weights_T[:seq_len], example.source)]


def _split(example: Example, seq_len: int) -> list[Example]:
    """Parts that overlap by one token, so that the first label of each part still has a token before it
    and every label is kept exactly once."""
    parts: list[Example] = []
    for start in range(0, max(len(example) - 1, 1), seq_len - 1):
        weights_T = np.array(example.weights_T[start : start + seq_len])
        weights_T[0] = 0.0
        parts.append(Example(example.tokens_T[start : start + seq_len], weights_T, example.source))
    return parts
