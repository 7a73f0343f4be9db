"""From data files to tokenised examples and the data report, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from tunewright.config.schema import DataConfig, SourceConfig
from tunewright.data.example_rows import ExampleRows, MemoryRows
from tunewright.data.holdout import PreparedRow, choose_held_out, fingerprint
from tunewright.data.length import fit_length
from tunewright.data.mask import RenderedRow, render_row
from tunewright.data.report import DataReport, SourceReport, Tally, count_tokens
from tunewright.data.rows import RowSource, read_rows
from tunewright.data.templates import ChatTokenizer
from tunewright.errors import DataError
from tunewright.types import Example, Row, SourceRef

_ERRORS_SHOWN = 10
_Use = Literal["train", "eval"]

_WHAT = {
    "data.no-trained-token": "rows without a trained token",
    "data.template-refused": "rows that the chat template refuses",
    "data.template-not-prefix": "rows whose turns do not begin with the generation prompt",
    "data.double-bos": "rows that start with the bos token twice",
    "data.overlong": "rows above data.seq_len",
}


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Tokenised data. train_sources: the rows of each source and its weight, ready for StepStream.

    errors: the first faults, for a message; the report counts all of them.
    """

    train_sources: tuple[tuple[ExampleRows, float], ...]
    eval_examples: tuple[Example, ...]
    report: DataReport
    errors: tuple[DataError, ...] = ()


def prepare_data(data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path, seed: int) -> PreparedData:
    """Read, render and tokenise all data of a run. Raises one DataError that lists the faults of all rows."""
    prepared = survey_data(data, tokenizer, base_dir, seed)
    check_prepared(prepared)
    return prepared


def survey_data(data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path, seed: int) -> PreparedData:
    """As prepare_data, but bad rows only show in the report and in `errors`."""
    survey = _Survey(data, tokenizer)
    for config in data.train:
        survey.add_source(read_rows(config, base_dir), "train")
    if isinstance(data.eval, str):
        survey.add_source(read_rows(_held_out_source(data, data.eval), base_dir), "eval")
    return survey.finish(seed)


def _held_out_source(data: DataConfig, path: str) -> SourceConfig:
    """A held-out file is read as the training files are, when those agree on format and columns."""
    first = data.train[0]
    if all((source.format, source.columns) == (first.format, first.columns) for source in data.train):
        return SourceConfig(path=path, format=first.format, columns=first.columns)
    return SourceConfig(path=path)


def check_prepared(prepared: PreparedData) -> None:
    """Raise DataError when any row is bad or nothing is left to train on."""
    report = prepared.report
    if prepared.errors:
        shown = "\n".join(str(error) for error in _without_hints(prepared.errors[:_ERRORS_SHOWN]))
        total = sum(finding.count for finding in report.errors)
        raise DataError(
            f"{total} bad {'row' if total == 1 else 'rows'} of {report.rows_read}:\n{shown}"
            + (f"\n… and {total - _ERRORS_SHOWN} more" if total > _ERRORS_SHOWN else ""),
            hint=prepared.errors[0].hint or "see `tunewright data check` for all of them",
            code=prepared.errors[0].code if len(report.errors) == 1 else "data.bad-rows",
        )
    if report.train_rows == 0:
        raise DataError(
            "no row is left to train on",
            where=", ".join(source.path for source in report.sources),
            got=f"{report.rows_read} rows read, {report.rows_dropped} dropped",
            hint="raise data.seq_len or look at `tunewright data check`",
            code="data.nothing-to-train",
        )


@dataclass(frozen=True, slots=True)
class _Prepared:
    use: _Use
    read: RowSource
    rows: list[PreparedRow]


class _Survey:
    """Takes sources in, one after the other, and counts everything for the report."""

    def __init__(self, data: DataConfig, tokenizer: ChatTokenizer) -> None:
        self._data = data
        self._tokenizer = tokenizer
        self._tally = Tally()
        self._sources: list[_Prepared] = []
        self._errors: list[DataError] = []
        self._bad = 0

    def add_source(self, source: RowSource, use: _Use) -> None:
        """Prepare the rows of one source; faults are collected."""
        for error in source.bad:
            self._add_error(error)
        if unlisted := source.bad_count - len(source.bad):
            self._bad += unlisted
            what = "further unreadable rows"
            self._tally.add(
                "data.bad-rows", "error", what, source.config.path, f"{what}, not listed", unlisted
            )
        prepared = [examples for row in source.rows if (examples := self._prepare(row))]
        self._sources.append(_Prepared(use, source, prepared))

    def finish(self, seed: int) -> PreparedData:
        """Split off the held-out rows and freeze the report."""
        train = [source for source in self._sources if source.use == "train"]
        prints = [[fingerprint(row) for row in source.rows] for source in train]
        self._count_duplicates(train, prints)
        share = self._data.eval if isinstance(self._data.eval, float) else 0.0
        held = choose_held_out(prints, share=share, seed=seed)
        train_sources: list[tuple[ExampleRows, float]] = []
        eval_rows = [row for source in self._sources if source.use == "eval" for row in source.rows]
        train_rows = 0
        for source, out in zip(train, held, strict=True):
            kept = [row for row, is_out in zip(source.rows, out, strict=True) if not is_out]
            eval_rows += [row for row, is_out in zip(source.rows, out, strict=True) if is_out]
            train_rows += len(kept)
            if kept:
                train_sources.append((MemoryRows(kept), source.read.config.weight))
        eval_examples = tuple(example for row in eval_rows for example in row)
        used = chain(*(rows.known() for rows, _ in train_sources), eval_examples)
        report = self._report(used, train_rows, len(eval_rows))
        return PreparedData(tuple(train_sources), eval_examples, report, tuple(self._errors))

    def _prepare(self, row: Row) -> PreparedRow:
        try:
            rendered = render_row(row, self._tokenizer, self._data)
        except DataError as error:
            self._add_error(error)
            return ()
        self._tally.measure(rendered.examples)
        self._note_rendering(row, rendered)
        fit = fit_length(rendered.examples, self._data.seq_len, self._data.overlong)
        longest = max(len(example) for example in rendered.examples)
        if fit.outcome == "too long":
            self._add_error(_too_long(row, longest, self._data.seq_len))
            return ()
        self._tally.outcomes[fit.outcome] += 1
        if fit.outcome != "kept":
            detail = f"{row.source}: {longest} tokens, data.seq_len is {self._data.seq_len}"
            code = f"data.{fit.outcome.replace(' ', '-')}"
            self._tally.add(code, "warning", _OVERLONG[fit.outcome], row.source, detail)
        return fit.examples

    def _note_rendering(self, row: Row, rendered: RenderedRow) -> None:
        counts = (rendered.missing_end, rendered.shifted_prompts, rendered.left_out)
        for (code, what, why), count in zip(_NOTES, counts, strict=True):
            if count:
                self._tally.add(code, "warning", what, row.source, f"{row.source}: {why}", count)
        if rendered.dropped:
            first = f"{row.source}: {', '.join(rendered.dropped)}"
            self._tally.add("data.content-dropped", "warning", _DROPPED, row.source, first)

    def _add_error(self, error: DataError) -> None:
        self._bad += 1
        what = _WHAT.get(error.code) or f"bad rows ({error.code.removeprefix('data.').replace('-', ' ')})"
        self._tally.add(error.code, "error", what, error.where or "", str(error))
        if len(self._errors) < _ERRORS_SHOWN:
            self._errors.append(error)

    def _count_duplicates(self, train: Sequence[_Prepared], prints: Sequence[Sequence[bytes]]) -> None:
        seen: dict[bytes, SourceRef] = {}
        for source, source_prints in zip(train, prints, strict=True):
            for row, print_ in zip(source.rows, source_prints, strict=True):
                place = row[0].source
                if first := seen.get(print_):
                    why = f"{place} repeats {first}"
                    self._tally.add("data.duplicate", "note", "exact duplicate rows", place, why)
                else:
                    seen[print_] = place
        held = [row for source in self._sources if source.use == "eval" for row in source.rows]
        for row in held:
            if first := seen.get(fingerprint(row)):
                why = f"{row[0].source} repeats {first}"
                self._tally.add("data.eval-leak", "warning", _LEAK, row[0].source, why)

    def _report(self, examples: Iterable[Example], train_rows: int, eval_rows: int) -> DataReport:
        tally = self._tally
        count, tokens, trained = count_tokens(examples)
        return DataReport(
            seq_len=self._data.seq_len,
            overlong=self._data.overlong,
            sources=tuple(
                SourceReport(
                    path=source.read.config.path,
                    format=source.read.format,
                    found=source.read.found,
                    use=source.use,
                    weight=source.read.config.weight,
                    rows_read=source.read.rows_read,
                    rows_used=len(source.rows),
                )
                for source in self._sources
            ),
            rows_read=sum(source.read.rows_read for source in self._sources),
            rows_kept=tally.outcomes["kept"],
            rows_cut=tally.outcomes["cut"],
            rows_split=tally.outcomes["split"],
            rows_dropped=tally.outcomes["dropped"] + tally.outcomes["cut to nothing"],
            rows_bad=self._bad,
            train_rows=train_rows,
            eval_rows=eval_rows,
            examples=count,
            tokens=tokens,
            trained_tokens=trained,
            longest=tally.longest,
            zero_label_rows=tally.count_of("data.no-trained-token"),
            missing_end_of_turn=tally.count_of("data.no-end-of-turn"),
            content_dropped=tally.count_of("data.content-dropped"),
            duplicate_rows=tally.count_of("data.duplicate"),
            lengths=tally.buckets(),
            findings=tally.findings(),
        )


_NOTES = (
    (
        "data.no-end-of-turn",
        "trained turns that no special token closes",
        "the model will not learn to stop there",
    ),
    (
        "data.shifted-prompt",
        "trained turns without the whole generation prompt",
        "the template writes something into the prompt that it does not render in the turn",
    ),
    (
        "data.turns-left-out",
        "turns not trained because data.thinking is last_only",
        "the template renders them differently once they are history",
    ),
)
_LEAK = "held-out rows that are also trained on"
_DROPPED = "rows with content that the chat template drops"
_OVERLONG = {
    "cut": "rows cut at data.seq_len",
    "split": "rows split at data.seq_len",
    "dropped": "rows above data.seq_len, left out",
    "cut to nothing": "rows with no trained token within data.seq_len, left out",
}


def _too_long(row: Row, tokens: int, seq_len: int) -> DataError:
    return DataError(
        "the row is too long",
        where=str(row.source),
        got=f"{tokens} tokens",
        expected=f"at most data.seq_len = {seq_len}",
        hint="raise data.seq_len, or set data.overlong to truncate, split or drop",
        code="data.overlong",
    )


def _without_hints(errors: Iterable[DataError]) -> list[str]:
    return [str(error).split("\nhint:")[0] for error in errors]
