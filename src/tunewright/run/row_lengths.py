"""The widest forward pass that the data of a run can make, known before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tunewright.config.schema import RunConfig
from tunewright.data.collate import WIDTH_STEP
from tunewright.data.example_rows import ExampleRows
from tunewright.data.prepared import PreparedData
from tunewright.run.memory import Facts


def with_lengths(facts: Facts, config: RunConfig, data: PreparedData) -> Facts:
    """The facts with the lengths of the rows, where all of them are known: not through a pipe, and not for
    files that are read row by row. Full rows of seq_len are the most there can be."""
    if data.extent is None:
        return facts
    facts = replace(facts, fast_document=min(facts.fast_document, data.extent.longest))
    if not config.data.packing:
        return replace(facts, row_tokens=_width(data.extent.longest))
    most = _longest_rows(data.train_sources, config.train.batch_size)
    if config.train.tokens_per_batch is not None:
        most = config.train.tokens_per_batch
    return facts if most is None else replace(facts, step_tokens=_width(most))


def _longest_rows(sources: Sequence[tuple[ExampleRows, float]], count: int) -> int | None:
    """Tokens of the `count` longest rows, which may meet in one step."""
    longest: list[int] = []
    for rows, weight in sources:
        lengths_N = rows.lengths()
        if lengths_N is None:
            return None
        # A row comes once in a pass, and a step may hold the rows of several passes.
        times = math.ceil(weight) + (weight != int(weight))
        longest += np.repeat(np.sort(lengths_N)[-count:], times).tolist()
    return sum(sorted(longest)[-count:])


def _width(tokens: int) -> int:
    """Rows are padded to this."""
    return -(-tokens // WIDTH_STEP) * WIDTH_STEP
