"""Takes rows in one after the other and counts everything for the data report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.config.schema import DataConfig
from tunewright.data.bad_rows import is_row_fault, most_bad_rows, too_many_bad_rows
from tunewright.data.faults import fault_from_json, fault_to_json
from tunewright.data.mask import RenderedRow, render_row
from tunewright.data.prepare_row import fit_rendered
from tunewright.data.report import DataReport, Loading, SourceReport, Tally, count_tokens
from tunewright.data.templates import ChatTokenizer
from tunewright.errors import DataError
from tunewright.types import Example, Row

ERRORS_KEPT = 10

_WHAT = {
    "data.no-trained-token": "rows without a trained token",
    "data.template-refused": "rows that the chat template refuses",
    "data.template-not-prefix": "rows whose turns do not begin with the generation prompt",
    "data.double-bos": "rows that start with the bos token twice",
    "data.turn-dropped": "rows with a trained turn that the chat template leaves empty",
    "data.overlong": "rows above data.seq_len",
}
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
_DROPPED = "rows with content that the chat template drops"
_DROPPED_KINDS = {
    "content": "data.dropped-content",
    "reasoning": "data.dropped-reasoning",
    "name": "data.dropped-name",
    "tool call": "data.dropped-tool-call",
    "tool arguments": "data.dropped-tool-arguments",
    "tool result": "data.dropped-tool-result",
    "tool": "data.dropped-tool",
}
_SPELLED = "rows whose content spells control tokens, read as plain text"
_OVERLONG = {
    "cut": "rows cut at data.seq_len",
    "split": "rows split at data.seq_len",
    "dropped": "rows above data.seq_len, left out",
    "cut to nothing": "rows with no trained token within data.seq_len, left out",
}


class RowSurvey:
    """Renders, tokenises and fits rows; keeps counts, findings and the first ERRORS_KEPT faults, no row."""

    def __init__(self, data: DataConfig, tokenizer: ChatTokenizer) -> None:
        self.data = data
        self.tokenizer = tokenizer
        self._bad = self._unread = 0
        self._sums: tuple[int, ...] = (0, 0, 0)
        self.tally = Tally()
        self.errors: list[DataError] = []

    def take(self, row: Row) -> tuple[Example, ...]:
        """As prepare_row, but a fault is counted, and such a row is empty."""
        try:
            return self.take_good(row)
        except DataError as error:
            self.add_error(error)
            return ()

    def take_good(self, row: Row) -> tuple[Example, ...]:
        """As prepare_row, counted unless it raises."""
        rendered = render_row(row, self.tokenizer, self.data)
        self.tally.measure(rendered.examples)
        self._note_rendering(row, rendered)
        fit = fit_rendered(row, rendered, self.data)
        self.tally.outcomes[fit.outcome] += 1
        if fit.outcome != "kept":
            detail = f"{row.source}: {rendered.longest} tokens, data.seq_len is {self.data.seq_len}"
            code = f"data.{fit.outcome.replace(' ', '-')}"
            self.tally.add(code, "warning", _OVERLONG[fit.outcome], row.source, detail)
        self._add_sums(count_tokens(fit.examples))
        return fit.examples

    def add_error(self, error: DataError) -> None:
        """Count a row that cannot be trained on, or a file whose rest cannot be read."""
        self._bad += 1
        self._unread += not is_row_fault(error)
        what = _WHAT.get(error.code) or f"bad rows ({error.code.removeprefix('data.').replace('-', ' ')})"
        self.tally.add(error.code, "error", what, error.where or "", str(error))
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(error)

    def skip(self, error: DataError, rows: int) -> None:
        """Count a bad row among `rows` and go on. Raises `error` itself unless data.bad_rows is `skip`, and
        DataError `data.too-many-bad-rows` beyond data.max_bad_rows."""
        self.add_error(error)
        self.check_skipped(error, rows)

    def check_skipped(self, error: DataError, rows: int) -> None:
        """As skip, for a row that is counted already."""
        if self.data.bad_rows == "error" or not is_row_fault(error):
            raise error
        if self._bad > most_bad_rows(self.data, rows):
            raise too_many_bad_rows(self.data, self._bad, rows, str(error.where)) from error

    def add_unlisted_errors(self, path: str, count: int) -> None:
        """Count bad rows of a source of which nothing more is known."""
        self._bad += count
        what = "further unreadable rows"
        self.tally.add("data.bad-rows", "error", what, path, f"{what}, not listed", count)

    def to_json(self) -> dict[str, Any]:
        """All that was counted, as plain JSON values."""
        return {
            "bad": self._bad,
            "unread": self._unread,
            "sums": self._sums,
            "tally": self.tally.to_json(),
            "errors": [fault_to_json(error) for error in self.errors],
        }

    def add_json(self, counted: Mapping[str, Any]) -> None:
        """Count what to_json of another survey says, as if its rows had been taken here now."""
        self._bad += counted["bad"]
        self._unread += counted["unread"]
        self._add_sums(counted["sums"])
        self.tally.add_json(counted["tally"])
        room = ERRORS_KEPT - len(self.errors)
        self.errors += map(fault_from_json, counted["errors"][:room])

    def report(
        self,
        sources: Sequence[SourceReport],
        *,
        train_rows: int,
        eval_rows: int,
        loading: Loading = "memory",
        duplicate_rows: int | None,
    ) -> DataReport:
        """Freeze what was counted."""
        tally = self.tally
        examples, tokens, trained = self._sums
        dropped = tally.outcomes["dropped"] + tally.outcomes["cut to nothing"]
        return DataReport(
            loading=loading,
            seq_len=self.data.seq_len,
            overlong=self.data.overlong,
            bad_rows=self.data.bad_rows,
            sources=tuple(sources),
            rows_read=sum(source.rows_read for source in sources),
            rows_checked=tally.outcomes.total() + self._bad,
            rows_kept=tally.outcomes["kept"],
            rows_cut=tally.outcomes["cut"],
            rows_split=tally.outcomes["split"],
            rows_dropped=dropped,
            rows_bad=self._bad,
            train_rows=train_rows,
            eval_rows=eval_rows,
            examples=examples,
            tokens=tokens,
            trained_tokens=trained,
            longest=tally.longest,
            zero_label_rows=tally.count_of("data.no-trained-token"),
            missing_end_of_turn=tally.count_of("data.no-end-of-turn"),
            content_dropped=tally.count_of("data.content-dropped"),
            duplicate_rows=duplicate_rows,
            lengths=tally.buckets(),
            findings=tally.findings(are_skipped=self.data.bad_rows == "skip" and not self._unread),
        )

    def _add_sums(self, sums: Sequence[int]) -> None:
        self._sums = tuple(a + b for a, b in zip(self._sums, sums, strict=True))

    def _note_rendering(self, row: Row, rendered: RenderedRow) -> None:
        counts = (rendered.missing_end, rendered.shifted_prompts, rendered.left_out)
        for (code, what, why), count in zip(_NOTES, counts, strict=True):
            if count:
                self.tally.add(code, "warning", what, row.source, f"{row.source}: {why}", count)
        if rendered.spells_control:
            first = f"{row.source}: data.control_tokens: parse reads it as the tokens"
            self.tally.add("data.control-text", "note", _SPELLED, row.source, first)
        if rendered.dropped:
            first = f"{row.source}: {', '.join(map(str, rendered.dropped))}"
            self.tally.add("data.content-dropped", "warning", _DROPPED, row.source, first)
        for kind in dict.fromkeys(part.kind for part in rendered.dropped):
            parts = ", ".join(str(part) for part in rendered.dropped if part.kind == kind)
            what = f"of these, rows with a {kind} that is dropped"
            self.tally.add(_DROPPED_KINDS[kind], "note", what, row.source, f"{row.source}: {parts}")
