"""All rows tokenised and held in memory: every one is checked before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunewright.config.schema import DataConfig, SourceConfig
from tunewright.data.example_rows import ExampleRows, MemoryRows
from tunewright.data.holdout import PreparedRow, choose_held_out, fingerprint
from tunewright.data.prepared import PreparedData
from tunewright.data.report import SourceReport
from tunewright.data.row_survey import RowSurvey
from tunewright.data.rows import RowSource, read_rows
from tunewright.data.templates import ChatTokenizer
from tunewright.types import SourceRef

_LEAK = "held-out rows that are also trained on"
_Use = Literal["train", "eval"]


def prepare_in_memory(data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path, seed: int) -> PreparedData:
    """Read, render and tokenise every row; bad rows show in the report and in `errors`."""
    survey = RowSurvey(data, tokenizer)
    train = [take_source(survey, config, base_dir, "train") for config in data.train]
    held_out_file = read_held_out_file(survey, data, base_dir)
    prints = [[fingerprint(row) for row in source.rows] for source in train]
    _count_duplicates(survey, train, prints, held_out_file)
    share = data.eval if isinstance(data.eval, float) else 0.0
    held = choose_held_out(prints, share=share, seed=seed)
    train_sources: list[tuple[ExampleRows, float]] = []
    eval_rows = [row for source in held_out_file for row in source.rows]
    train_rows = 0
    for source, out in zip(train, held, strict=True):
        kept = [row for row, is_out in zip(source.rows, out, strict=True) if not is_out]
        eval_rows += [row for row, is_out in zip(source.rows, out, strict=True) if is_out]
        train_rows += len(kept)
        if kept:
            train_sources.append((MemoryRows(kept), source.read.config.weight))
    report = survey.report(
        [source.report() for source in (*train, *held_out_file)],
        train_rows=train_rows,
        eval_rows=len(eval_rows),
        duplicate_rows=survey.tally.count_of("data.duplicate"),
    )
    eval_examples = tuple(example for row in eval_rows for example in row)
    return PreparedData(tuple(train_sources), eval_examples, report, tuple(survey.errors))


@dataclass(frozen=True, slots=True)
class TakenSource:
    """A source and its rows that can be trained on."""

    use: _Use
    read: RowSource
    rows: list[PreparedRow]

    def report(self) -> SourceReport:
        """What the data report says of it."""
        return SourceReport(
            path=self.read.config.path,
            format=self.read.format,
            found=self.read.found,
            use=self.use,
            weight=self.read.config.weight,
            rows_read=self.read.rows_read,
            rows_used=len(self.rows),
        )


def take_source(survey: RowSurvey, config: SourceConfig, base_dir: Path, use: _Use) -> TakenSource:
    """Prepare all rows of one source; faults are counted in `survey`."""
    source = read_rows(config, base_dir)
    for error in source.bad:
        survey.add_error(error)
    if unlisted := source.bad_count - len(source.bad):
        survey.add_unlisted_errors(config.path, unlisted)
    return TakenSource(use, source, [examples for row in source.rows if (examples := survey.take(row))])


def read_held_out_file(survey: RowSurvey, data: DataConfig, base_dir: Path) -> list[TakenSource]:
    """The held-out file when `data.eval` names one, else nothing. It is read as the training files are, when
    those agree on format and columns."""
    if not isinstance(data.eval, str):
        return []
    first = data.train[0]
    config = SourceConfig(path=data.eval)
    if all((source.format, source.columns) == (first.format, first.columns) for source in data.train):
        config = SourceConfig(path=data.eval, format=first.format, columns=first.columns)
    return [take_source(survey, config, base_dir, "eval")]


def _count_duplicates(
    survey: RowSurvey,
    train: Sequence[TakenSource],
    prints: Sequence[Sequence[bytes]],
    held_out: Sequence[TakenSource],
) -> None:
    seen: dict[bytes, SourceRef] = {}
    for source, source_prints in zip(train, prints, strict=True):
        for row, print_ in zip(source.rows, source_prints, strict=True):
            place = row[0].source
            if first := seen.get(print_):
                why = f"{place} repeats {first}"
                survey.tally.add("data.duplicate", "note", "exact duplicate rows", place, why)
            else:
                seen[print_] = place
    for source in held_out:
        for row in source.rows:
            if first := seen.get(fingerprint(row)):
                why = f"{row[0].source} repeats {first}"
                survey.tally.add("data.eval-leak", "warning", _LEAK, row[0].source, why)
