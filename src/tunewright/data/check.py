"""Check every row of the data in bounded memory, without keeping any."""

from __future__ import annotations

from pathlib import Path

from tunewright.config.schema import DataConfig, SourceConfig
from tunewright.data.holdout import fingerprint
from tunewright.data.prepared import Checked
from tunewright.data.report import SourceReport
from tunewright.data.row_survey import RowSurvey
from tunewright.data.rows import open_rows
from tunewright.data.templates import ChatTokenizer
from tunewright.errors import DataError
from tunewright.types import Row

MOST_PRINTS = 2_000_000
"""Rows whose repeats are found: a fingerprint takes about 100 bytes of memory."""


def check_rows(data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path) -> Checked:
    """Render and tokenise all training rows one after the other; only counts, findings and first faults
    stay."""
    check = _Check(RowSurvey(data, tokenizer))
    sources = [check.read(config, base_dir) for config in data.train]
    report = check.survey.report(
        sources,
        loading="indexed",
        train_rows=sum(source.rows_used or 0 for source in sources),
        eval_rows=0,
        duplicate_rows=check.survey.tally.count_of("data.duplicate"),
    )
    return Checked(report, tuple(check.survey.errors))


class _Check:
    def __init__(self, survey: RowSurvey) -> None:
        self.survey = survey
        self._prints: set[bytes] = set()

    def read(self, config: SourceConfig, base_dir: Path) -> SourceReport:
        opened = open_rows(config, base_dir)
        read = used = 0
        for row in opened.rows:
            read += 1
            if isinstance(row, DataError):
                self.survey.add_error(row)
            else:
                used += self._take(row)
        return SourceReport(
            path=config.path,
            format=opened.format,
            found=opened.found,
            use="train",
            weight=config.weight,
            rows_read=read,
            rows_used=used,
        )

    def _take(self, row: Row) -> bool:
        examples = self.survey.take(row)
        if not examples:
            return False
        print_, tally = fingerprint(examples), self.survey.tally
        if print_ in self._prints:
            why = f"{row.source} repeats an earlier row"
            tally.add("data.duplicate", "note", "exact duplicate rows", row.source, why)
        elif len(self._prints) < MOST_PRINTS:
            self._prints.add(print_)
        else:
            why = f"repeats of the first {MOST_PRINTS:,} different rows only are counted"
            tally.add("data.many-rows", "note", "rows whose repeats are not counted", row.source, why)
        return True
