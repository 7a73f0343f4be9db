"""The two result files of a job, made of the figures that its workers reported."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

# OpenAI's five columns, in order, and the figure that fills each. Programs parse this file as it is.
COLUMNS = {
    "step": "step",
    "train_loss": "loss",
    "train_accuracy": "token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_token_accuracy",
}
RESULTS_NAME = "step_metrics.csv"
ALL_NAME = "all_metrics.csv"

Rows = Iterable[tuple[int, Mapping[str, Any]]]
"""Steps with their figures, in rising order."""


def result_csv(rows: Rows) -> Iterator[bytes]:
    """OpenAI's result file: one line a step, empty cells where a step was not evaluated."""
    names = list(COLUMNS.values())
    # Step 0 is the look before training; OpenAI's file starts at 1.
    return _csv(list(COLUMNS), (_line(step, row, names) for step, row in rows if step > 0))


def all_metrics_csv(names: Iterable[str], rows: Rows) -> Iterator[bytes]:
    """Every figure that is named, by the names of the run folder."""
    columns = ["step", *names]
    return _csv(columns, (_line(step, row, columns) for step, row in rows))


def _line(step: int, row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    known = {**row, "step": step}
    return ["" if known.get(name) is None else known[name] for name in names]


def _csv(header: Sequence[str], lines: Iterator[list[Any]]) -> Iterator[bytes]:
    for line in chain([list(header)], lines):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(line)
        yield text.getvalue().encode()
