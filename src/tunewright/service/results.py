"""The two result files of a job, made of the figures that its workers reported."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
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


def result_csv(figures: Mapping[int, Mapping[str, Any]]) -> Iterator[bytes]:
    """OpenAI's result file: one line a step, empty cells where a step was not evaluated."""
    return _csv(list(COLUMNS), (_line(step, row, list(COLUMNS.values())) for step, row in figures.items()))


def all_metrics_csv(figures: Mapping[int, Mapping[str, Any]]) -> Iterator[bytes]:
    """Every figure by the names of the run folder; columns in the order in which they first appear."""
    names = list(dict.fromkeys(name for row in figures.values() for name in row))
    return _csv(["step", *names], (_line(step, row, ["step", *names]) for step, row in figures.items()))


def _line(step: int, row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    known = {**row, "step": step}
    return ["" if known.get(name) is None else known[name] for name in names]


def _csv(header: Sequence[str], lines: Iterator[list[Any]]) -> Iterator[bytes]:
    for line in chain([list(header)], lines):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(line)
        yield text.getvalue().encode()
