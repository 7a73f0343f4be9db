"""The micro-batch of a run that needs most memory, made of the longest rows of its data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from tunewright.data.collate import build_batch
from tunewright.data.example_rows import ExampleRows
from tunewright.data.step import ExampleRow, StepRule, count_tokens
from tunewright.types import Batch, Example, SourceRef

Sources = Sequence[tuple[ExampleRows, float]]

# Lengths are known by row. Of rows with several examples a shorter one may hold the longest example.
_ROWS_LOOKED_AT = 1024


@dataclass(frozen=True, slots=True)
class LongestPass:
    """micro_batches: the largest one that a step may hold; twice where a step holds several, since the
    gradients of one are there while the next is computed. longest: its longest example. is_data: it is made
    of real rows, else of rows as full as they may get."""

    micro_batches: tuple[Batch, ...]
    longest: Example
    is_data: bool


def find_longest_pass(sources: Sources, rule: StepRule, *, largest_id: int) -> LongestPass:
    """The most tokens that one micro-batch may hold under `rule`: of the longest rows, which may meet in a
    step. Where lengths are not known before rows are read, of full rows with ids up to `largest_id`."""
    # Rows of a token each would be the most. More than fill a micro-batch tell nothing.
    most = min(rule.tokens_per_batch or rule.batch_size, _capacity(rule) + 1)
    places = find_longest_rows(sources, max(most, _ROWS_LOOKED_AT))
    found: list[ExampleRow] = [(_full_example(rule.shape.seq_len, largest_id),)] * most
    if places is not None:
        found = [sources[place.source][0].row(place.row) for place in places]
    examples, several = _packed(found[:most], rule) if rule.shape.packing else _padded(found, most, rule)
    batch = build_batch(examples, rule.shape)
    longest = max(chain.from_iterable(examples), key=len)
    return LongestPass((batch,) * (2 if several else 1), longest, is_data=places is not None)


@dataclass(frozen=True, slots=True)
class RowPlace:
    """A row by the number of its source and its own, and its tokens."""

    source: int
    row: int
    tokens: int


def find_longest_rows(sources: Sources, count: int) -> list[RowPlace] | None:
    """The rows with most tokens, longest first, which may meet in one step; None where lengths are not known,
    as of a pipe, which is none of the sources."""
    found: list[RowPlace] = []
    for source, (rows, weight) in enumerate(sources):
        lengths_N = rows.lengths()
        if lengths_N is None:
            return None
        # A row comes once in a pass, and a step may hold the rows of several passes.
        times = math.ceil(weight) + (weight != int(weight))
        longest = np.argsort(lengths_N, kind="stable")[-count:].tolist()
        found += [RowPlace(source, row, int(lengths_N[row])) for row in longest for _ in range(times)]
    return sorted(found, key=lambda place: -place.tokens)[:count] or None


def _packed(rows: Sequence[ExampleRow], rule: StepRule) -> tuple[list[list[Example]], bool]:
    """A row as full as it gets, and whether the step holds more."""
    total = min(sum(map(count_tokens, rows)), rule.tokens_per_batch or math.inf)
    capacity = _capacity(rule)
    return [list(_fill(rows, int(min(total, capacity))))], total > capacity


def _padded(rows: Sequence[ExampleRow], most: int, rule: StepRule) -> tuple[list[list[Example]], bool]:
    """A row an example, whatever tokens_per_batch says, which counts no padding; and whether the step holds
    more."""
    count = rule.shape.padded_rows
    longest = sorted(chain.from_iterable(rows), key=len, reverse=True)[:count]
    return [[example] for example in longest], sum(map(len, rows[:most])) > count


def _capacity(rule: StepRule) -> int:
    """Tokens of a packed micro-batch."""
    return rule.shape.micro_batch_size * rule.shape.seq_len


def _fill(rows: Sequence[ExampleRow], tokens: int) -> Iterator[Example]:
    """Examples of so many tokens, the last one cut: other rows would fill what it leaves."""
    for example in chain.from_iterable(rows):
        if tokens <= 0:
            return
        yield Example(example.tokens_T[:tokens], example.weights_T[:tokens], example.source)
        tokens -= len(example)


def _full_example(length: int, largest_id: int) -> Example:
    """Every token is a label, the most there can be."""
    tokens_T = (np.arange(length) % (largest_id + 1)).astype(np.int32)
    weights_T = np.ones(length, np.float32)
    weights_T[0] = 0.0
    return Example(tokens_T, weights_T, SourceRef("", 0))
