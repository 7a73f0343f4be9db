"""The widest forward pass that the data of a run can make, known before a model is loaded."""

from __future__ import annotations

from dataclasses import replace

from tunewright.config.schema import RunConfig
from tunewright.data.collate import WIDTH_STEP
from tunewright.data.longest import find_longest_rows
from tunewright.data.prepared import PreparedData
from tunewright.data.stream import EVAL_WINDOW
from tunewright.run.engine_options import expected_layout
from tunewright.run.memory import Facts


def with_lengths(facts: Facts, config: RunConfig, data: PreparedData) -> Facts:
    """The facts with the lengths of the rows, where all of them are known: not through a pipe, and not for
    files that are read row by row. Full rows of seq_len are the most there can be."""
    if data.extent is None:
        return facts
    facts = replace(
        facts,
        fast_document=min(facts.fast_document, data.extent.longest),
        capped_document=min(facts.capped_document, data.extent.longest),
        held_out_tokens=_width(_packed_held_out(data)),
    )
    if expected_layout(config, facts.arch) != "packed":
        return replace(facts, row_tokens=_width(data.extent.longest))
    if config.train.tokens_per_batch is not None:
        return replace(facts, step_tokens=_width(config.train.tokens_per_batch))
    longest = find_longest_rows(data.train_sources, config.train.batch_size)
    if longest is None:
        return facts
    return replace(facts, step_tokens=_width(sum(place.tokens for place in longest)))


def _packed_held_out(data: PreparedData) -> int:
    """Tokens of the held-out examples that are packed among each other, where there are most."""
    lengths = [len(example) for example in data.eval_examples]
    return max((sum(lengths[at : at + EVAL_WINDOW]) for at in range(0, len(lengths), EVAL_WINDOW)), default=0)


def _width(tokens: int) -> int:
    """Rows are padded to this."""
    return -(-tokens // WIDTH_STEP) * WIDTH_STEP
