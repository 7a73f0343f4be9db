"""All rows tokenised before the first step, so every one of them is checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunewright.config.schema import DataConfig, SourceConfig
from tunewright.data.example_rows import ExampleRows
from tunewright.data.holdout import choose_held_out
from tunewright.data.prepared import Extent, PreparedData
from tunewright.data.report import SourceReport
from tunewright.data.row_survey import RowSurvey
from tunewright.data.table_rows import TableRows
from tunewright.data.templates import ChatTokenizer
from tunewright.data.token_table import TokenTable
from tunewright.data.tokenised_source import Say, open_tokenised

# Array letters: R rows of a source, N those of them that are taken.

_LEAK = "held-out rows that are also trained on"
_Use = Literal["train", "eval"]


def prepare_in_memory(
    data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path, seed: int, say: Say
) -> PreparedData:
    """Every row, tokenised now or found in the cache; bad rows show in the report and in `errors`."""
    survey = RowSurvey(data, tokenizer)
    train = [take_source(survey, config, base_dir, "train", say) for config in data.train]
    held_out_file = read_held_out_file(survey, data, base_dir, say)
    prints = [source.table.fingerprints() for source in train]
    _count_duplicates(survey, train, prints, held_out_file)
    share = data.eval if isinstance(data.eval, float) else 0.0
    held = choose_held_out(prints, share=share, seed=seed)
    train_sources: list[tuple[ExampleRows, float]] = []
    eval_examples = [example for source in held_out_file for example in source.rows().known()]
    train_rows, eval_rows = 0, sum(len(source.table) for source in held_out_file)
    for source, out in zip(train, held, strict=True):
        is_out_R = np.array(out, dtype=bool)
        kept, away = source.rows(~is_out_R), source.rows(is_out_R)
        eval_examples += away.known()
        eval_rows += len(away)
        train_rows += len(kept)
        if len(kept):
            train_sources.append((kept, source.config.weight))
    report = survey.report(
        [source.report() for source in (*train, *held_out_file)],
        train_rows=train_rows,
        eval_rows=eval_rows,
        duplicate_rows=survey.tally.count_of("data.duplicate"),
    )
    return PreparedData(
        tuple(train_sources),
        tuple(eval_examples),
        report,
        tuple(survey.errors),
        extent=_extent([source.table for source in (*train, *held_out_file)]),
    )


@dataclass(frozen=True, slots=True)
class TakenSource:
    """A source and its rows that can be trained on."""

    use: _Use
    config: SourceConfig
    table: TokenTable

    def rows(self, is_taken_R: NDArray[np.bool_] | None = None) -> TableRows:
        """Those of its rows that are taken, all by default."""
        numbers_N = np.arange(len(self.table))
        return TableRows(self.table, numbers_N if is_taken_R is None else numbers_N[is_taken_R])

    def report(self) -> SourceReport:
        """What the data report says of it."""
        return SourceReport(
            path=self.config.path,
            format=self.table.facts["format"],
            found=self.table.facts["found"],
            use=self.use,
            weight=self.config.weight,
            rows_read=self.table.facts["rows_read"],
            rows_used=len(self.table),
        )


def take_source(survey: RowSurvey, config: SourceConfig, base_dir: Path, use: _Use, say: Say) -> TakenSource:
    """All rows of one source; what was found in them is counted in `survey`."""
    table = open_tokenised(config, survey.data, survey.tokenizer, base_dir, say)
    survey.add_json(table.facts["counts"])
    return TakenSource(use, config, table)


def read_held_out_file(survey: RowSurvey, data: DataConfig, base_dir: Path, say: Say) -> list[TakenSource]:
    """The held-out file when `data.eval` names one, else nothing."""
    config = held_out_source(data)
    return [] if config is None else [take_source(survey, config, base_dir, "eval", say)]


def held_out_source(data: DataConfig) -> SourceConfig | None:
    """The held-out file as a source. It is read as the training files are, when those agree on format and
    columns."""
    if not isinstance(data.eval, str):
        return None
    first = data.train[0]
    if all((source.format, source.columns) == (first.format, first.columns) for source in data.train):
        return SourceConfig(path=data.eval, format=first.format, columns=first.columns)
    return SourceConfig(path=data.eval)


def _extent(tables: Sequence[TokenTable]) -> Extent:
    return Extent(
        max(int(table.lengths_E.max(initial=0)) for table in tables),
        max(table.facts["largest_id"] for table in tables),
    )


def _count_duplicates(
    survey: RowSurvey,
    train: Sequence[TakenSource],
    prints: Sequence[Sequence[bytes]],
    held_out: Sequence[TakenSource],
) -> None:
    seen: dict[bytes, tuple[int, int]] = {}
    for number, source_prints in enumerate(prints):
        for row, print_ in enumerate(source_prints):
            if first := seen.get(print_):
                place, earlier = train[number].table.source(row), train[first[0]].table.source(first[1])
                why = f"{place} repeats {earlier}"
                survey.tally.add("data.duplicate", "note", "exact duplicate rows", place, why)
            else:
                seen[print_] = (number, row)
    for source in held_out:
        for row, print_ in enumerate(source.table.fingerprints()):
            if first := seen.get(print_):
                place, earlier = source.table.source(row), train[first[0]].table.source(first[1])
                survey.tally.add("data.eval-leak", "warning", _LEAK, place, f"{place} repeats {earlier}")
