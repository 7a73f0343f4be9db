"""Data that is read when its turn comes: indexed, and a sample of it looked at before the first step."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from threading import Lock

import numpy as np

from tunewright.config.schema import DataConfig
from tunewright.data.holdout import PreparedRow, pick_held_out, spread_evenly
from tunewright.data.indexed_rows import IndexedRows
from tunewright.data.indexed_source import IndexedSource, open_source
from tunewright.data.prepare_memory import read_held_out_file
from tunewright.data.prepared import PreparedData
from tunewright.data.report import DataReport, SourceReport
from tunewright.data.row_survey import RowSurvey
from tunewright.data.seen_rows import SeenRows
from tunewright.data.shard import permute
from tunewright.data.templates import ChatTokenizer
from tunewright.data.tokenised_source import Say

# Array letters: H rows held out of a source, N rows looked at.

SAMPLE_ROWS = 1000
"""Training rows that are checked and counted before the first step."""
_SAMPLE = 5  # keeps this permutation apart from those that order and hold out rows


def prepare_indexed(
    data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path, seed: int, say: Say
) -> PreparedData:
    """Index the training files; render a sample spread over them, and the held-out rows.

    Faults among those rows show in the report and in `errors`.
    """
    survey, lock = RowSurvey(data, tokenizer), Lock()
    sources = [open_source(config, base_dir) for config in data.train]
    held_out_file = read_held_out_file(survey, data, base_dir, say)
    total = sum(map(len, sources)) + sum(file.report().rows_read for file in held_out_file)
    seen = [SeenRows(survey, lock, rows=len(source), total=total) for source in sources]
    eval_rows = [source.table.row(row) for source in held_out_file for row in range(len(source.table))]
    share = data.eval if isinstance(data.eval, float) else 0.0
    held_out = pick_held_out([len(source) for source in sources], share=share, seed=seed)
    train = list(map(IndexedRows, sources, repeat(tokenizer), repeat(data), held_out, seen))
    for rows in train:
        taken = (_look(rows, number) for number in rows.held_out_H.tolist())
        eval_rows += [row for row in taken if row]
    quotas = spread_evenly(SAMPLE_ROWS, [len(rows) for rows in train])
    for rows, quota in zip(train, quotas, strict=True):
        _look_at_sample(rows, quota, seed)

    def recount() -> DataReport:
        with lock:
            return survey.report(
                [*map(_report, sources), *(source.report() for source in held_out_file)],
                loading="indexed",
                train_rows=sum(map(len, train)),
                eval_rows=len(eval_rows),
                duplicate_rows=None,
            )

    weighted = tuple((rows, rows.source.config.weight) for rows in train)
    eval_examples = tuple(example for row in eval_rows for example in row)
    return PreparedData(weighted, eval_examples, recount(), tuple(survey.errors), recount=recount)


def _look_at_sample(rows: IndexedRows, quota: int, seed: int) -> None:
    """Look at `quota` rows from all over the source: the head of a sorted file is not like the rest."""
    picked_N = permute(np.arange(quota), len(rows), seed, _SAMPLE)
    for place in sorted(map(rows.place, picked_N.tolist())):
        _look(rows, place)


def _look(rows: IndexedRows, number: int) -> PreparedRow:
    return rows.seen.look(number, lambda: rows.source.read(number))


def _report(source: IndexedSource) -> SourceReport:
    return SourceReport(
        path=source.config.path,
        format=source.format,
        found=source.found,
        use="train",
        weight=source.config.weight,
        rows_read=len(source),
        rows_used=None,
    )
