"""A pipe that stays silent is waited for, and said; any other silence is a hang."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Timer
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

from tunewright.data.collate import BatchShape
from tunewright.data.prefetch import prefetched
from tunewright.data.raw_row import Line
from tunewright.data.report import DataReport
from tunewright.data.step import StepRule
from tunewright.data.windows import Windows, WindowStream
from tunewright.run import source_wait
from tunewright.run.source_wait import SourceWait
from tunewright.train.watchdog import Watchdog
from tunewright.types import Example, SourceRef, StepBatch

PATIENCE = 0.5


class LateRows:
    """Two rows, then nothing until `go_on`, then two more. A row that is prepared may hang as well."""

    def __init__(self) -> None:
        self.go_on, self.prepare_on = Event(), Event()
        self.prepare_on.set()

    def lines(self) -> Iterator[Line]:
        for number in (1, 2, 3, 4):
            if number == 3:
                self.go_on.wait(60)
            yield Line(SourceRef("late", number), b"row\n")

    def prepare(self, line: Line) -> list[Example]:
        self.prepare_on.wait(60)
        return [Example(np.full(3, line.source.line, np.int32), np.ones(3, np.float32), line.source)]

    def report(self) -> DataReport:
        raise NotImplementedError


class Run:
    """Steps of four rows behind a watchdog, as a run wires them."""

    def __init__(self, *, patience: float = PATIENCE) -> None:
        self.rows, self.stalled, self.stopped = LateRows(), Event(), Event()
        self.events: list[tuple[str, int, dict[str, Any]]] = []
        windows = Windows(self.rows, 4)
        rule = StepRule(4, None, BatchShape(4, 16, True, 0))
        self.watchdog = Watchdog(patience, patience, self.on_stall)
        self.wait = SourceWait(windows, self.watchdog, self.emit, self.stopped.is_set)
        steps = WindowStream(windows, rule, seed=0).steps()
        self.steps = prefetched(steps, look=lambda: self.wait.look(7))

    def on_stall(self, seconds: float) -> None:
        self.stalled.set()
        self.rows.prepare_on.set()

    def emit(self, type: str, step: int, **fields: Any) -> None:
        self.events.append((type, step, fields))

    def take(self) -> StepBatch | None:
        with self.watchdog:
            return next(self.steps, None)


def after(seconds: float, *calls: Event) -> None:
    for call in calls:
        Timer(seconds, call.set).start()


def test_a_silent_pipe_is_no_hang() -> None:
    run = Run()
    after(4 * PATIENCE, run.rows.go_on)
    step = run.take()
    assert step is not None
    assert step.examples == 4
    assert not run.stalled.is_set()


def test_a_row_that_hangs_while_it_is_made_is_one() -> None:
    run = Run()
    run.rows.go_on.set()
    run.rows.prepare_on.clear()
    run.take()
    assert run.stalled.is_set()


def test_silence_is_said_again_after_twice_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_wait, "SILENT_SECONDS", 0.4)
    run = Run(patience=60)
    started = monotonic()
    after(2.4, run.rows.go_on)
    run.take()
    assert monotonic() - started > 2
    assert [(type_, step) for type_, step, _ in run.events][:2] == [("warning", 7)] * 2
    assert len(run.events) <= 3
    message = run.events[0][2]["message"]
    assert "2 of the 4 rows of the next window" in message
    assert "nothing for the last" in message


def test_a_stop_ends_the_wait() -> None:
    run = Run()
    after(0.3, run.stopped)
    assert run.take() is None
    run.rows.go_on.set()


def test_files_are_not_waited_for() -> None:
    stalled = Event()
    watchdog = Watchdog(0.3, 0.3, lambda seconds: stalled.set())
    wait = SourceWait(None, watchdog, lambda type, step, **fields: None, lambda: False)
    with watchdog:
        deadline = monotonic() + 20
        while not stalled.is_set():
            assert monotonic() < deadline
            assert not wait.look(0)
            sleep(0.05)
