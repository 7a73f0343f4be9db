"""Rows of indexed data that were read so far: each is counted once, however often it comes."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from tunewright.data.prepare_row import prepare_row
from tunewright.data.row_survey import RowSurvey
from tunewright.errors import DataError
from tunewright.types import Example, Row


class SeenRows:
    """Prepares rows of one source and remembers with a bit a row which of them were counted.

    survey and lock: shared by all sources of a run. total: rows of all of them, for the share of bad ones.
    """

    def __init__(self, survey: RowSurvey, lock: Lock, *, rows: int, total: int) -> None:
        self._survey, self._lock, self._total = survey, lock, total
        self._bits = bytearray(-(-rows // 8))

    def take(self, number: int, read: Callable[[], Row]) -> tuple[Example, ...]:
        """The examples of a row; none where a bad row is skipped. Raises as RowSurvey.skip does, at every
        call."""
        with self._lock:
            if self._is_counted(number):
                return self._again(read)
            try:
                examples = self._survey.take_good(read())
            except DataError as error:
                self._count(number)
                self._survey.skip(error, self._total)
                return ()
            self._count(number)
            return examples

    def look(self, number: int, read: Callable[[], Row]) -> tuple[Example, ...]:
        """As take, but every bad row is only counted."""
        self._count(number)
        try:
            row = read()
        except DataError as error:
            self._survey.add_error(error)
            return ()
        return self._survey.take(row)

    def _again(self, read: Callable[[], Row]) -> tuple[Example, ...]:
        try:
            return prepare_row(read(), self._survey.tokenizer, self._survey.data)
        except DataError as error:
            self._survey.check_skipped(error, self._total)
            return ()

    def _is_counted(self, number: int) -> bool:
        return bool(self._bits[number >> 3] & 1 << (number & 7))

    def _count(self, number: int) -> None:
        self._bits[number >> 3] |= 1 << (number & 7)
