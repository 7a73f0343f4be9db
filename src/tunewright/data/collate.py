"""Examples to the arrays of a micro-batch.

A packed micro-batch is one row [1, T] of whole documents; a padded one has a row per example. Array
letters: B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewright.data.pack import pack_lengths, pad_groups
from tunewright.types import Batch, Example

# Rows come in few widths: libraries build and keep a kernel for each shape they meet, which cost a run on
# ever new widths more than a gigabyte within 500 steps.
WIDTH_STEP = 64


@dataclass(frozen=True, slots=True)
class BatchShape:
    """How examples become micro-batches. A packed one holds micro_batch_size · seq_len tokens at most, a
    padded one micro_batch_size rows, and without padding it is one example. pad_id fills padded places and
    means nothing else."""

    micro_batch_size: int
    seq_len: int
    packing: bool
    pad_id: int
    padding: bool = True

    @property
    def padded_rows(self) -> int:
        """Rows of a micro-batch where examples are not packed."""
        return self.micro_batch_size if self.padding else 1

    @property
    def width_step(self) -> int:
        """Rows are as wide as a multiple of this."""
        return WIDTH_STEP if self.padding else 1


def collate(examples: Sequence[Example], shape: BatchShape) -> tuple[Batch, ...]:
    """Micro-batches that hold each example once. Depends on the examples and their order alone."""
    lengths = [len(example) for example in examples]
    if shape.packing:
        bins = pack_lengths(lengths, shape.micro_batch_size * shape.seq_len)
        return tuple(build_batch([[examples[i] for i in members]], shape) for members in bins)
    groups = pad_groups(lengths, shape.padded_rows)
    return tuple(build_batch([[examples[i]] for i in members], shape) for members in groups)


def count_batches(lengths: Sequence[int], shape: BatchShape) -> int:
    """Micro-batches that `collate` makes of examples of these lengths."""
    if shape.packing:
        return len(pack_lengths(lengths, shape.micro_batch_size * shape.seq_len))
    return -(-len(lengths) // shape.padded_rows)


def build_empty_batch(pad_id: int) -> Batch:
    """A micro-batch without a label: its loss and its gradients are zero. Its tokens are one document, since
    not every attention back end takes a row of padding alone."""
    tokens_BT = np.full((1, WIDTH_STEP), pad_id, dtype=np.int32)
    positions_BT = np.arange(WIDTH_STEP, dtype=np.int32)[None]
    return Batch(tokens_BT, positions_BT, np.zeros((1, WIDTH_STEP), np.float32), ((WIDTH_STEP,),))


def build_batch(rows: Sequence[Sequence[Example]], shape: BatchShape) -> Batch:
    """One micro-batch whose rows hold the given documents end to end, padded to the longest row and on to a
    multiple of the width step."""
    longest = max(sum(len(document) for document in row) for row in rows)
    width = -(-longest // shape.width_step) * shape.width_step
    tokens_BT = np.full((len(rows), width), shape.pad_id, dtype=np.int32)
    positions_BT = np.zeros((len(rows), width), dtype=np.int32)
    weights_BT = np.zeros((len(rows), width), dtype=np.float32)
    for b, row in enumerate(rows):
        at = 0
        for document in row:
            end = at + len(document)
            tokens_BT[b, at:end] = document.tokens_T
            positions_BT[b, at:end] = np.arange(len(document))
            weights_BT[b, at + 1 : end] = document.weights_T[1:]
            at = end
    doc_lengths = tuple(tuple(len(document) for document in row) for row in rows)
    return Batch(tokens_BT, positions_BT, weights_BT, doc_lengths)
