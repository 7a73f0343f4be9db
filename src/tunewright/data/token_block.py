"""Rows of a source, tokenised: what one process hands to another, and what the token table is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.config.schema import DataConfig, SourceConfig
from tunewright.data.faults import Faults, detach
from tunewright.data.formats import parse_row
from tunewright.data.holdout import fingerprint
from tunewright.data.json_rows import read_line
from tunewright.data.raw_row import Line
from tunewright.data.row_survey import RowSurvey
from tunewright.data.templates import ChatTokenizer
from tunewright.data.unread_rows import UnreadRow
from tunewright.errors import DataError
from tunewright.types import Example


@dataclass(frozen=True, slots=True)
class TokenBlock:
    """Some rows in file order, those without examples left out.

    words: per example its tokens as little-endian int32, then its weights as float32. lengths: tokens per
    example. parts: examples per row. places: file name and line per row. prints: 16 bytes per row.
    largest_id: of all tokens, -1 without any. counts: RowSurvey.to_json. faults: the first rows that could
    not be read; fault_count: all of them.
    """

    rows_read: int
    words: bytes
    lengths: tuple[int, ...]
    parts: tuple[int, ...]
    places: tuple[tuple[str, int], ...]
    prints: bytes
    largest_id: int
    counts: Mapping[str, Any]
    faults: tuple[DataError, ...]
    fault_count: int


@dataclass(frozen=True, slots=True)
class RowTokeniser:
    """All that is needed to tokenise rows of one source. Goes to worker processes as it is."""

    source: SourceConfig
    format: str
    data: DataConfig
    tokenizer: ChatTokenizer

    def survey(self) -> RowSurvey:
        """An empty survey for such rows."""
        return RowSurvey(self.data, self.tokenizer)

    def tokenise(self, rows: Sequence[UnreadRow]) -> TokenBlock:
        """The block of a chunk of rows. Raises ModelError."""
        survey, faults = self.survey(), Faults()
        taken = [examples for row in rows if (examples := self._take(row, survey, faults))]
        return TokenBlock(
            rows_read=len(rows),
            words=b"".join(part for row in taken for example in row for part in _words(example)),
            lengths=tuple(len(example) for row in taken for example in row),
            parts=tuple(map(len, taken)),
            places=tuple((row[0].source.path, row[0].source.line) for row in taken),
            largest_id=max((int(example.tokens_T.max()) for row in taken for example in row), default=-1),
            prints=b"".join(map(fingerprint, taken)),
            counts=survey.to_json(),
            faults=tuple(faults.kept),
            fault_count=faults.count,
        )

    def _take(self, row: UnreadRow, survey: RowSurvey, faults: Faults) -> tuple[Example, ...]:
        if isinstance(row, DataError):
            faults.add(row)
            return ()
        try:
            raw = read_line(row.text, row.source) if isinstance(row, Line) else row
            parsed = parse_row(raw, self.format, self.source.columns)
        except DataError as error:
            faults.add(detach(error))
            return ()
        return survey.take(parsed)


def _words(example: Example) -> tuple[bytes, bytes]:
    tokens_T, weights_T = example.tokens_T.astype("<i4"), example.weights_T.astype("<f4")
    return tokens_T.tobytes(), weights_T.tobytes()
