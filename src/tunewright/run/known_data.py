"""The data of a run for its plan: what `train` will read, where that is quick to know or decides."""

from __future__ import annotations

from pathlib import Path

from tunewright.config.schema import RunConfig
from tunewright.data.collate import BatchShape
from tunewright.data.prepare import resolve_loading, survey_data
from tunewright.data.prepare_memory import held_out_source
from tunewright.data.prepare_pipe import find_pipe
from tunewright.data.prepared import PreparedData
from tunewright.data.step import StepRule
from tunewright.data.stream import StepStream
from tunewright.data.templates import ChatTokenizer
from tunewright.data.tokenised_source import is_quick
from tunewright.errors import DataError
from tunewright.run.data_size import DataSize
from tunewright.run.plan import resolve_total_steps


def find_data(
    config: RunConfig, base_dir: Path, tokenizer: ChatTokenizer, *, at_any_cost: bool
) -> PreparedData | None:
    """The tokenised data, when all of it is small or was tokenised before; at_any_cost: else it is tokenised
    now, as `train` would do first, and kept for it.

    None where rows are read when their turn comes, and where data is missing or bad: `data check` names it.
    """
    data = config.data
    held_out = held_out_source(data)
    sources = [*data.train, *([held_out] if held_out else [])]
    try:
        if find_pipe(data, base_dir) or resolve_loading(data, base_dir) != "memory":
            return None
        if not at_any_cost and not all(is_quick(source, data, tokenizer, base_dir) for source in sources):
            return None
        found = survey_data(data, tokenizer, base_dir, config.train.seed)
    except (DataError, OSError):
        return None
    return None if found.report.errors or not found.train_sources else found


def count_data(config: RunConfig, data: PreparedData) -> tuple[DataSize, int]:
    """Size of an epoch and steps of the run, as `train` will have them. Raises ConfigError and DataError."""
    shape = BatchShape(1, config.data.seq_len, config.data.packing, 0)
    rule = StepRule(config.train.batch_size, config.train.tokens_per_batch, shape)
    stream = StepStream(data.train_sources, rule, seed=config.train.seed)
    tokens, rows = 0.0, 0
    for source, weight in data.train_sources:
        lengths_N = source.lengths()
        assert lengths_N is not None
        tokens += weight * float(lengths_N.sum())
        rows += len(lengths_N)
    epoch = stream.rows_per_epoch
    size = DataSize(
        epoch,
        tokens / max(1, epoch),
        sampled=rows,
        tokenised=True,
        exact=True,
        held_out_tokens=sum(len(example) for example in data.eval_examples),
    )
    return size, resolve_total_steps(config, stream)
