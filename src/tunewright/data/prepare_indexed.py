"""Data that is read when its turn comes: indexed, and a sample of it looked at before the first step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunewright.config.schema import DataConfig
from tunewright.data.holdout import PreparedRow, pick_held_out, spread_evenly
from tunewright.data.indexed_rows import IndexedRows
from tunewright.data.indexed_source import IndexedSource, open_source
from tunewright.data.prepare_memory import read_held_out_file
from tunewright.data.prepared import PreparedData
from tunewright.data.report import SourceReport
from tunewright.data.row_survey import RowSurvey
from tunewright.data.shard import permute
from tunewright.data.templates import ChatTokenizer
from tunewright.errors import DataError

# Array letters: N rows asked for.

SAMPLE_ROWS = 1000
"""Training rows that are checked and counted before the first step."""
_SAMPLE = 5  # keeps this permutation apart from those that order and hold out rows


def prepare_indexed(data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path, seed: int) -> PreparedData:
    """Index the training files; render a sample spread over them, and the held-out rows.

    Faults among those rows show in the report and in `errors`.
    """
    survey = RowSurvey(data, tokenizer)
    sources = [open_source(config, base_dir) for config in data.train]
    held_out_file = read_held_out_file(survey, data, base_dir)
    eval_rows = [row for source in held_out_file for row in source.rows]
    share = data.eval if isinstance(data.eval, float) else 0.0
    held_out = pick_held_out([len(source) for source in sources], share=share, seed=seed)
    for source, held_out_H in zip(sources, held_out, strict=True):
        eval_rows += _take_rows(survey, source, held_out_H)
    parts = [
        IndexedRows(source, tokenizer, data, held_out_H)
        for source, held_out_H in zip(sources, held_out, strict=True)
    ]
    quotas = spread_evenly(SAMPLE_ROWS, [len(rows) for rows in parts])
    known = [_sample(survey, rows, quota, seed) for rows, quota in zip(parts, quotas, strict=True)]
    train = [
        IndexedRows(rows.source, tokenizer, data, rows.held_out_H, sample)
        for rows, sample in zip(parts, known, strict=True)
    ]
    report = survey.report(
        [*map(_report, sources), *(source.report() for source in held_out_file)],
        loading="indexed",
        train_rows=sum(map(len, train)),
        eval_rows=len(eval_rows),
        duplicate_rows=None,
    )
    weighted = tuple((rows, rows.source.config.weight) for rows in train)
    eval_examples = tuple(example for row in eval_rows for example in row)
    return PreparedData(weighted, eval_examples, report, tuple(survey.errors))


def _sample(survey: RowSurvey, rows: IndexedRows, quota: int, seed: int) -> PreparedRow:
    """Examples of `quota` rows from all over the source: the head of a sorted file is not like the rest."""
    picked_N = permute(np.arange(quota), len(rows), seed, _SAMPLE)
    places_N = np.array(sorted(map(rows.place, picked_N.tolist())), dtype=np.int64)
    return tuple(example for row in _take_rows(survey, rows.source, places_N) for example in row)


def _take_rows(survey: RowSurvey, source: IndexedSource, rows_N: NDArray[np.int64]) -> list[PreparedRow]:
    taken: list[PreparedRow] = []
    for number in rows_N.tolist():
        try:
            row = source.read(number)
        except DataError as error:
            survey.add_error(error)
        else:
            taken.append(survey.take(row))
    return [examples for examples in taken if examples]


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
