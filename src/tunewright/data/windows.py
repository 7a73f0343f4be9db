"""Steps from rows that can be read once, in order: shuffled within windows.

The position is again one integer, rows consumed. A resumed run reads from the start and passes over the
rows before it; a running hash tells whether they are the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from threading import Lock
from time import monotonic
from typing import Protocol

import numpy as np

from tunewright.data.raw_row import Line
from tunewright.data.report import DataReport
from tunewright.data.shard import permute
from tunewright.data.step import ExampleRow, StepRule, build_step, take_rows
from tunewright.errors import DataError
from tunewright.types import StepBatch

_STREAM = 4  # keeps this order apart from the other uses of the seed
# Steps built ahead may be of this many windows, and a step that is made again needs its window.
_KEPT = 3


class LineSource(Protocol):
    """Lines that come once, and what becomes of each."""

    def lines(self) -> Iterator[Line]: ...
    def prepare(self, line: Line) -> ExampleRow: ...
    def report(self) -> DataReport: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """A window that is being read: the rows of `size` that came so far, since when, and when the last one."""

    rows: int
    size: int
    since: float
    last: float


@dataclass(slots=True)
class Window:
    """Rows in the order read. rows holds what was prepared so far. digest: over the lines of all windows up
    to and with this one."""

    lines: list[Line]
    rows: list[ExampleRow | None]
    digest: str


class Windows:
    """The lines of a pipe in windows of `size`, the last one shorter. Safe to use from several threads."""

    def __init__(self, source: LineSource, size: int) -> None:
        self._source = source
        self._lines = source.lines()
        self.size = size
        self._reading, self._preparing = Lock(), Lock()
        self._kept: dict[int, Window] = {}
        self._next = 0
        self._digest = blake2b(digest_size=16)
        self._expected: tuple[int, str] | None = None
        self.reading: Reading | None = None
        """The window that a thread waits for now, if any. Times are those of time.monotonic."""

    def expect(self, position: int, source_state: str) -> None:
        """Check the rows before `position` when they are passed over: `source_state` is that of the step that
        ended there. Reading raises DataError (`data.other-rows`) when they are not the same."""
        self._expected = (position, source_state) if position else None

    def window(self, number: int) -> Window | None:
        """Read on to a window; None when the lines end before it. One of the last _KEPT can be had again."""
        with self._reading:
            while self._next <= number and self._read_next():
                pass
            assert number in self._kept or number >= self._next, f"window {number} was read and let go"
            return self._kept.get(number)

    def row(self, window: Window, index: int) -> ExampleRow:
        """The examples of one row, prepared once. Raises DataError naming its line."""
        with self._preparing:
            row = window.rows[index]
            if row is None:
                row = window.rows[index] = self._source.prepare(window.lines[index])
            return row

    def report(self) -> DataReport:
        """Counts over the rows that came so far."""
        with self._preparing:
            return self._source.report()

    def _read_next(self) -> bool:
        lines = self._take_lines()
        for line in lines:
            self._digest.update((line.text or b"").rstrip(b"\r\n") + b"\n")
        self._check_expected(len(lines))
        if not lines:
            return False
        self._kept[self._next] = Window(lines, [None] * len(lines), self._digest.hexdigest())
        self._kept.pop(self._next - _KEPT, None)
        self._next += 1
        return True

    def _take_lines(self) -> list[Line]:
        started = monotonic()
        self.reading = Reading(0, self.size, started, started)
        try:
            lines: list[Line] = []
            for line in islice(self._lines, self.size):
                lines.append(line)
                self.reading = Reading(len(lines), self.size, started, monotonic())
            return lines
        finally:
            self.reading = None

    def _check_expected(self, rows: int) -> None:
        """Once the window of the last row before the expected position was read, or nothing came."""
        if self._expected is None:
            return
        (position, state), first = self._expected, self._next * self.size
        if first + self.size < position and rows == self.size:
            return
        if first + rows < position or self._digest.hexdigest() != state:
            raise DataError(
                "the rows that come through the pipe are not those of the run that is resumed",
                where="data.train",
                got=f"other rows among the first {first + rows:,}",
                expected="the same rows in the same order, from the first one on",
                hint="start the writer of the pipe again as for the first start",
                code="data.other-rows",
            )
        self._expected = None


class WindowStream:
    """Steps of the rows of `windows`, each window in the order of (seed, its number). A step never crosses a
    window. The steps end where the lines end."""

    def __init__(self, windows: Windows, rule: StepRule, *, seed: int) -> None:
        self._windows = windows
        self._rule = rule
        self._seed = seed

    @property
    def rows_per_epoch(self) -> None:
        """Not known before the lines end."""

    def count_steps(self, epochs: float) -> None:
        """Not known before the lines end."""

    def steps(self, position: int = 0) -> Iterator[StepBatch]:
        """Steps from `position` rows on. Raises DataError for a row that cannot be trained on."""
        while True:
            number, offset = divmod(position, self._windows.size)
            window = self._windows.window(number)
            if window is None or offset >= len(window.lines):
                return
            rows = take_rows(self._rows(window, number, offset), self._rule)
            position += len(rows)
            step = build_step(rows, self._rule, position=position, epoch=0.0)
            if step.micro_batches:
                yield replace(step, source_state=window.digest)

    def _rows(self, window: Window, number: int, offset: int) -> Iterator[ExampleRow]:
        count = len(window.lines)
        order_N = permute(np.arange(offset, count), count, self._seed, number, _STREAM)
        return (self._windows.row(window, index) for index in order_N.tolist())
