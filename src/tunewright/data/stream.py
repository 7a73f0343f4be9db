"""The endless stream of optimizer steps, from any position at once.

The position is one integer: source rows consumed over all epochs. Nothing else is remembered, so a
resumed run seeks at once and sees exactly the steps that the uninterrupted run would.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tunewright.data.collate import BatchShape, collate
from tunewright.data.example_rows import ExampleRows
from tunewright.data.shard import EpochOrder
from tunewright.data.step import ExampleRow, StepRule, build_step, take_rows
from tunewright.errors import ConfigError, DataError
from tunewright.types import Batch, Example, StepBatch

EVAL_WINDOW = 256
"""Held-out examples that are packed among each other."""
# Rows looked up at once: many for counting steps, few where the step may end after any of them.
_COUNTED_AT_ONCE = 1 << 16
_TAKEN_AT_ONCE = 64


class StepStream:
    """Steps in the order of (seed, epoch, index), as `rule` cuts them.

    All parts of a row fall in one step. A step never crosses an epoch; the last one of an epoch may hold
    fewer rows. A source of n rows and weight w fills round(w·n) of the rows of every epoch. Rows that the
    length rule leaves out are passed over, and so is a step of nothing else.
    """

    def __init__(self, sources: Sequence[tuple[ExampleRows, float]], rule: StepRule, *, seed: int) -> None:
        self._sources = tuple(rows for rows, _ in sources)
        counts = [(len(rows), weight) for rows, weight in sources]
        self._order = EpochOrder(counts, seed)
        self._rule = rule
        _check_slots(counts, self._order.slots_of_source)
        self._lengths = None if rule.tokens_per_batch is None else _known_lengths(self._sources)
        if rule.tokens_per_batch is not None and self._lengths is not None:
            _check_rows_fit(self._lengths, rule.tokens_per_batch)

    @property
    def rows_per_epoch(self) -> int:
        """Rows of one pass over the data, weights applied."""
        return self._order.slots_per_epoch

    def count_steps(self, epochs: float) -> int | None:
        """Optimizer steps until `epochs` passes are over, one at least; None when that depends on lengths
        that are not known."""
        rows = math.ceil(epochs * self.rows_per_epoch - 1e-6)
        whole, rest = divmod(rows, self.rows_per_epoch)
        if self._rule.tokens_per_batch is None:
            size = self._rule.batch_size
            return max(1, whole * -(-self.rows_per_epoch // size) + -(-rest // size))
        if self._lengths is None:
            return None
        taken = [self.rows_per_epoch] * whole + [rest]
        return max(1, sum(self._count_filled(epoch, rows) for epoch, rows in enumerate(taken) if rows))

    def steps(self, position: int = 0) -> Iterator[StepBatch]:
        """Steps from `position` rows on, without end. Raises DataError when an epoch holds nothing."""
        barren = 0
        while True:
            step = self._build_step(position)
            barren = 0 if step.micro_batches else barren + step.examples
            if barren >= 2 * self.rows_per_epoch:
                raise _nothing_left(self.rows_per_epoch)
            if step.micro_batches:
                yield step
            position = step.position

    def _build_step(self, position: int) -> StepBatch:
        epoch = position // self.rows_per_epoch
        rows = take_rows(self._rows(position, (epoch + 1) * self.rows_per_epoch), self._rule)
        end = position + len(rows)
        return build_step(rows, self._rule, position=end, epoch=end / self.rows_per_epoch)

    def _rows(self, start: int, end: int) -> Iterator[ExampleRow]:
        size = _TAKEN_AT_ONCE if self._rule.tokens_per_batch else self._rule.batch_size
        for at in range(start, end, size):
            slots = self._order.rows(at, min(at + size, end))
            for source, row in zip(slots.source_N.tolist(), slots.row_N.tolist(), strict=True):
                yield self._row(source, row)

    def _row(self, source: int, row: int) -> ExampleRow:
        return self._sources[source].row(row)

    def _count_filled(self, epoch: int, rows: int) -> int:
        """Steps that the first `rows` rows of an epoch fill."""
        assert self._lengths is not None
        assert self._rule.tokens_per_batch is not None
        first = epoch * self.rows_per_epoch
        lengths_N = np.empty(rows, np.int64)
        for at in range(0, rows, _COUNTED_AT_ONCE):
            slots = self._order.rows(first + at, first + min(at + _COUNTED_AT_ONCE, rows))
            for source, known_N in enumerate(self._lengths):
                here_N = np.flatnonzero(slots.source_N == source)
                lengths_N[at + here_N] = known_N[slots.row_N[here_N]]
        return count_filled(lengths_N, self._rule.tokens_per_batch)


def count_filled(lengths_N: NDArray[np.int64], limit: int) -> int:
    """Steps that rows of these lengths fill, when each takes rows in order up to `limit` tokens, one at
    least."""
    ends_N = np.cumsum(lengths_N)
    # Where the step that starts at each row would end: a step is then one look-up.
    next_N = np.searchsorted(ends_N, ends_N - lengths_N + limit, side="right")
    following = np.maximum(next_N, np.arange(1, len(lengths_N) + 1)).tolist()
    at = steps = 0
    while at < len(following):
        at = following[at]
        steps += 1
    return steps


def eval_batches(examples: Sequence[Example], shape: BatchShape) -> list[Batch]:
    """Batches that hold every held-out example once, in a fixed order."""
    windows = (examples[at : at + EVAL_WINDOW] for at in range(0, len(examples), EVAL_WINDOW))
    return [batch for window in windows for batch in collate(window, shape)]


def _known_lengths(sources: Sequence[ExampleRows]) -> list[NDArray[np.int32]] | None:
    known = [lengths_N for rows in sources if (lengths_N := rows.lengths()) is not None]
    return known if len(known) == len(sources) else None


def _check_rows_fit(lengths: Sequence[NDArray[np.int32]], limit: int) -> None:
    longest = max(int(lengths_N.max()) for lengths_N in lengths)
    if longest > limit:
        raise ConfigError(
            "a row does not fit into one step",
            where="train.tokens_per_batch",
            got=f"{limit:,}, and the longest row has {longest:,} tokens",
            expected=f"at least {longest:,}",
            hint="raise train.tokens_per_batch, or lower data.seq_len with data.overlong",
            code="config.row-above-batch",
        )


def _nothing_left(rows: int) -> DataError:
    return DataError(
        "no row is left to train on",
        where="data.train",
        got=f"{rows:,} rows, all left out by data.overlong or data.bad_rows",
        hint="raise data.seq_len or look at `tunewright data check`",
        code="data.nothing-to-train",
    )


def _check_slots(counts: Sequence[tuple[int, float]], slots: Sequence[int]) -> None:
    for number, ((rows, weight), taken) in enumerate(zip(counts, slots, strict=True), start=1):
        if taken == 0:
            raise DataError(
                "this source would never be seen",
                where=f"data.train, source {number}",
                got=f"{rows} rows at weight {weight}",
                expected="at least one row per epoch",
                hint="raise its weight or remove it",
                code="data.empty-source",
            )
    if not slots:
        raise DataError("there is no training data", where="data.train", code="data.empty-source")
