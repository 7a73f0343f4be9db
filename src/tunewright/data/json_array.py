"""The elements of a JSON array as texts, cut out of a stream of chunks in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tunewright.data import lines
from tunewright.data.strict_json import JsonFault, parse_json
from tunewright.errors import DataError

_OUTSIDE = re.compile(r'["\[\]{}]')
_INSIDE = re.compile(r'["\\]')
_NOT_SPACE = re.compile(r"[^ \t\r\n]")


@dataclass(frozen=True, slots=True)
class Element:
    """JSON text of one row, and the line and column (from 1) at which it begins in the file."""

    text: str
    line: int
    column: int

    def locate(self, position: int) -> tuple[int, int]:
        """Line and column in the file of a character of `text`."""
        before = self.text[:position]
        breaks = before.count("\n")
        column = position - before.rfind("\n") if breaks else self.column + position
        return self.line + breaks, column


def iter_elements(chunks: Iterator[str], shown: str) -> Iterator[Element]:
    """Texts of the elements of the array in `chunks`, whose first non-space character is `[`.

    Elements are balanced but not parsed. Raises DataError where the array itself is broken.
    """
    scanner = _Scanner(chunks, shown)
    scanner.take("[")
    if scanner.peek() != "]":
        yield scanner.take_value()
        while scanner.peek() == ",":
            scanner.take(",")
            yield scanner.take_value()
    scanner.take("]")
    if scanner.peek():
        raise scanner.broken("text after the end of the array")


class _Scanner:
    """A place in a stream of text. Text before the place is forgotten at the next chunk."""

    def __init__(self, chunks: Iterator[str], shown: str) -> None:
        self._chunks = chunks
        self._shown = shown
        self._text = ""
        self._at = 0
        self._line = 1
        self._line_start = 0

    def peek(self) -> str:
        """Skip white space; the next character, empty at the end of the file."""
        while (found := _NOT_SPACE.search(self._text, self._at)) is None:
            self._advance(len(self._text))
            if not self._read_more():
                return ""
        self._advance(found.start())
        return found.group()

    def take(self, wanted: str) -> None:
        """Step over `wanted`, the next character, or raise."""
        if self.peek() != wanted:
            raise self.broken(f"Expecting {wanted!r}" if wanted == "[" else "Expecting ',' or ']'")
        self._advance(self._at + 1)

    def take_value(self) -> Element:
        """Step over the next value."""
        first = self.peek()
        if first in ("", ",", "]", "}"):
            raise self.broken("Expecting a row")
        if first not in "[{":
            raise DataError(
                f"a row is not an object (line {self._line})",
                where=self._shown,
                got=f"one bare value, {self._text[self._at : self._at + 20]!r}",
                expected="an array of objects, [{…}, {…}]",
                code="data.not-an-object",
            )
        line, column = self._line, self._column
        end = self._container_end()
        text = self._text[self._at : end]
        self._advance(end)
        return Element(text, line, column)

    def broken(self, what: str) -> DataError:
        """The error for broken JSON at this place."""
        return _broken(self._shown, (self._line, self._column), what)

    @property
    def _column(self) -> int:
        return self._at - self._line_start + 1

    def _container_end(self) -> int:
        depth, is_inside, scan = 0, False, self._at
        while True:
            found = (_INSIDE if is_inside else _OUTSIDE).search(self._text, scan)
            if found is None:
                # An escape may end one character beyond the text that is here.
                scan = max(scan, len(self._text)) - self._at
                self._extend_value()
                continue
            mark, scan = found.group(), found.end()
            if is_inside:
                scan += mark == "\\"
                is_inside = mark == "\\"
            elif mark == '"':
                is_inside = True
            else:
                depth += 1 if mark in "[{" else -1
                if depth == 0:
                    return scan

    def _extend_value(self) -> None:
        """Read on inside a value; it then begins at 0. Raises when it is too long or the file ends."""
        if len(self._text) - self._at > lines.MAX_LINE_BYTES:
            raise lines.too_long(f"{self._shown} line {self._line}")
        if not self._read_more():
            raise self._unfinished()

    def _unfinished(self) -> DataError:
        rest = Element(self._text[self._at :], self._line, self._column)
        try:
            parse_json(rest.text)
        except JsonFault as fault:
            if fault.position is not None:
                return _broken(self._shown, rest.locate(fault.position), fault.what)
        return _broken(self._shown, rest.locate(len(rest.text)), "the file ends inside the array")

    def _read_more(self) -> bool:
        chunk = next((chunk for chunk in self._chunks if chunk), "")
        self._text = self._text[self._at :] + chunk
        self._line_start -= self._at
        self._at = 0
        return bool(chunk)

    def _advance(self, to: int) -> None:
        breaks = self._text.count("\n", self._at, to)
        if breaks:
            self._line += breaks
            self._line_start = self._text.rindex("\n", self._at, to) + 1
        self._at = to


def _broken(shown: str, place: tuple[int, int], what: str) -> DataError:
    line, column = place
    return DataError(
        f"Broken JSON at line {line} column {column}: {what}", where=shown, code="data.broken-json"
    )
