"""The endless stream of optimizer steps, from any position at once.

The position is one integer: source rows consumed over all epochs. Nothing else is remembered, so a
resumed run seeks in O(1) and sees exactly the steps that the uninterrupted run would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tunewright.data.collate import BatchShape, collate
from tunewright.data.example_rows import ExampleRows
from tunewright.data.shard import EpochOrder
from tunewright.errors import DataError
from tunewright.types import Batch, Example, StepBatch

_EVAL_WINDOW = 256


class StepStream:
    """Steps of `batch_size` rows in the order of (seed, epoch, index).

    All parts of a row fall in one step. A step never crosses an epoch; the last one of an epoch may hold
    fewer rows. A source of n rows and weight w fills round(w·n) of the rows of every epoch.
    """

    def __init__(
        self,
        sources: Sequence[tuple[ExampleRows, float]],
        *,
        batch_size: int,
        micro_batch_size: int,
        seq_len: int,
        packing: bool,
        seed: int,
        pad_id: int,
    ) -> None:
        self._sources = tuple(rows for rows, _ in sources)
        counts = [(len(rows), weight) for rows, weight in sources]
        self._order = EpochOrder(counts, seed)
        self._batch_size = batch_size
        self._shape = BatchShape(micro_batch_size, seq_len, packing, pad_id)
        _check_slots(counts, self._order.slots_of_source)

    @property
    def rows_per_epoch(self) -> int:
        """Rows of one pass over the data, weights applied."""
        return self._order.slots_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the data."""
        return -(-self.rows_per_epoch // self._batch_size)

    def steps(self, position: int = 0) -> Iterator[StepBatch]:
        """Steps from `position` rows on, without end."""
        while True:
            step = self._build_step(position)
            yield step
            position = step.position

    def _build_step(self, position: int) -> StepBatch:
        epoch_end = (position // self.rows_per_epoch + 1) * self.rows_per_epoch
        end = min(position + self._batch_size, epoch_end)
        slots = self._order.rows(position, end)
        examples = [
            example
            for source, row in zip(slots.source_N.tolist(), slots.row_N.tolist(), strict=True)
            for example in self._row(source, row)
        ]
        micro_batches = collate(examples, self._shape)
        return StepBatch(
            micro_batches=micro_batches,
            position=end,
            epoch=end / self.rows_per_epoch,
            loss_weight=sum(float(batch.weights_BT.sum(dtype=np.float64)) for batch in micro_batches),
            loss_tokens=sum(int(np.count_nonzero(batch.weights_BT)) for batch in micro_batches),
            tokens=sum(len(example) for example in examples),
            examples=end - position,
        )

    def _row(self, source: int, row: int) -> Sequence[Example]:
        return self._sources[source].row(row)


def eval_batches(
    examples: Sequence[Example], *, micro_batch_size: int, seq_len: int, packing: bool, pad_id: int
) -> list[Batch]:
    """Batches that hold every held-out example once, in a fixed order."""
    shape = BatchShape(micro_batch_size, seq_len, packing, pad_id)
    windows = (examples[at : at + _EVAL_WINDOW] for at in range(0, len(examples), _EVAL_WINDOW))
    return [batch for window in windows for batch in collate(window, shape)]


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
