"""From rows to one optimizer step: which rows it takes, and the micro-batches of one rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from tunewright.data.collate import BatchShape, build_empty_batch, collate, count_batches
from tunewright.data.shard import rank_rows
from tunewright.types import Example, StepBatch

ExampleRow = Sequence[Example]


class StepSource(Protocol):
    """Steps of a run from any position on. Everything is None that only reading to the end would tell."""

    @property
    def rows_per_epoch(self) -> int | None:
        """Rows of one pass over the data."""
        ...

    def count_steps(self, epochs: float) -> int | None:
        """Optimizer steps until `epochs` passes are over."""
        ...

    def steps(self, position: int = 0) -> Iterator[StepBatch]:
        """Steps from `position` rows on."""
        ...


@dataclass(frozen=True, slots=True)
class StepRule:
    """How rows become steps: batch_size rows each, or with tokens_per_batch as many as fit into that many
    tokens. A rank builds its share of each step."""

    batch_size: int
    tokens_per_batch: int | None
    shape: BatchShape
    rank: int = 0
    world_size: int = 1


def take_rows(rows: Iterator[ExampleRow], rule: StepRule) -> list[ExampleRow]:
    """The rows of the next step. With tokens_per_batch it ends before the first row that does not fit, and a
    row that is alone above the limit is a step of its own."""
    if rule.tokens_per_batch is None:
        return list(islice(rows, rule.batch_size))
    taken: list[ExampleRow] = []
    tokens = 0
    for row in rows:
        length = count_tokens(row)
        if tokens and tokens + length > rule.tokens_per_batch:
            break
        taken.append(row)
        tokens += length
    return taken


def build_step(rows: Sequence[ExampleRow], rule: StepRule, *, position: int, epoch: float) -> StepBatch:
    """The share of one rank. Sums for the loss are those of the whole step, so every rank reads all of its
    rows: cheap next to a forward pass, and no rank has to wait for another."""
    shares = rank_rows([count_tokens(row) for row in rows], rule.world_size)
    examples = [[example for row in share for example in rows[row]] for share in shares]
    mine = examples[rule.rank]
    micro_batches = collate(mine, rule.shape)
    if rule.world_size > 1:
        # Collective operations inside a pass need every rank to make the same number of them.
        wanted = max(count_batches([len(e) for e in share], rule.shape) for share in examples)
        micro_batches += (build_empty_batch(rule.shape.pad_id),) * (wanted - len(micro_batches))
    # The first token of a document has nothing before it that could predict it.
    weights = [example.weights_T[1:] for row in rows for example in row]
    return StepBatch(
        micro_batches=micro_batches,
        position=position,
        epoch=epoch,
        loss_weight=sum(float(weights_T.sum(dtype=np.float64)) for weights_T in weights),
        loss_tokens=sum(int(np.count_nonzero(weights_T)) for weights_T in weights),
        tokens=sum(len(example) for example in mine),
        examples=len(rows),
    )


def count_tokens(row: ExampleRow) -> int:
    """Tokens of all examples of a row."""
    return sum(len(example) for example in row)
