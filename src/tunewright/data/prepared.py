"""The data of a run, ready to train on, and the check that it can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tunewright.config.schema import DataConfig
from tunewright.data.bad_rows import most_bad_rows, too_many_bad_rows
from tunewright.data.example_rows import ExampleRows
from tunewright.data.report import DataReport
from tunewright.data.row_survey import ERRORS_KEPT
from tunewright.data.windows import Windows
from tunewright.errors import DataError
from tunewright.types import Example


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in the data. errors: the first faults, for a message; the report counts all of them."""

    report: DataReport
    errors: tuple[DataError, ...]


@dataclass(frozen=True, slots=True)
class Extent:
    """Tokens of the longest example, and the largest token id of all."""

    longest: int
    largest_id: int


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Data ready to train on. train_sources: the rows of each source and its weight, for StepStream. errors:
    see Checked. windows: what is trained on instead where it comes through a pipe. extent: None where not
    every row was looked at. recount: the report over all rows read so far, where rows are read when their
    turn comes."""

    train_sources: tuple[tuple[ExampleRows, float], ...]
    eval_examples: tuple[Example, ...]
    report: DataReport
    errors: tuple[DataError, ...] = ()
    windows: Windows | None = None
    extent: Extent | None = None
    recount: Callable[[], DataReport] | None = None

    @property
    def checked(self) -> Checked:
        """The data without its rows."""
        return Checked(self.report, self.errors)


def check_prepared(checked: Checked, data: DataConfig) -> None:
    """Raise DataError for bad rows that data.bad_rows does not skip, and when nothing is left to train on."""
    report = checked.report
    if report.errors:
        shown = "\n".join(str(error).split("\nhint:")[0] for error in checked.errors)
        total = sum(finding.count for finding in report.errors)
        raise DataError(
            f"{total} bad {'row' if total == 1 else 'rows'} of {report.rows_checked}:\n{shown}"
            + (f"\n… and {total - ERRORS_KEPT} more" if total > ERRORS_KEPT else ""),
            hint=checked.errors[0].hint or "see `tunewright data check` for all of them",
            code=checked.errors[0].code if len(report.errors) == 1 else "data.bad-rows",
        )
    if report.rows_bad > most_bad_rows(data, report.rows_read):
        place = str(checked.errors[0].where)
        raise too_many_bad_rows(data, report.rows_bad, report.rows_read, place)
    if report.loading != "piped" and (report.train_rows == 0 or report.examples == 0):
        raise DataError(
            "no row is left to train on",
            where=", ".join(source.path for source in report.sources),
            got=f"{report.rows_checked} rows read, {report.rows_dropped} dropped, {report.rows_bad} bad",
            hint="raise data.seq_len or look at `tunewright data check`",
            code="data.nothing-to-train",
        )
