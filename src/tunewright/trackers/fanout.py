"""Send each event to the log and to every tracker."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any

from tunewright.trackers.console import ConsoleTracker
from tunewright.trackers.jsonl import EventLog
from tunewright.trackers.protocol import Emit, Tracker

# Seconds; only a disk or a terminal that hangs takes so long.
LONGEST_EMIT = 5.0

TRACKERS: dict[str, Callable[[int], Tracker]] = {"console": ConsoleTracker}


class Fanout:
    """The log comes first and must work. A tracker that fails is reported once and left out from then on."""

    def __init__(self, log: EventLog, trackers: dict[str, Tracker]) -> None:
        self._log = log
        self._trackers = trackers
        self._lock = RLock()

    def add(self, name: str, build: Callable[[int], Tracker], total_steps: int) -> None:
        """Start a tracker; one that does not start is reported and left out."""
        try:
            self._trackers[name] = build(total_steps)
        except Exception as error:  # noqa: BLE001 - as in emit
            self.emit("warning", 0, message=f"tracker {name} did not start and is left out: {error}")

    def emit(self, type: str, step: int, **fields: Any) -> None:
        """Number, date and send one event, from any thread.

        Raises OSError when the log cannot be written, TimeoutError when another thread hangs in here.
        """
        if not self._lock.acquire(timeout=LONGEST_EMIT):
            raise TimeoutError("the event log is in use by a thread that does not come back")
        try:
            self._emit(type, step, fields)
        finally:
            self._lock.release()

    def _emit(self, type: str, step: int, fields: Mapping[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = self._log.emit({"type": type, "time": time, "step": step, **fields})
        failed: dict[str, Exception] = {}
        for name, tracker in self._trackers.items():
            try:
                tracker.emit(event)
            except Exception as error:  # noqa: BLE001 - a process edge: an outside service must not end a run
                failed[name] = error
        for name in failed:
            del self._trackers[name]
        # Only now, so that a second failure while reporting the first meets trackers that work.
        for name, error in failed.items():
            self.emit("warning", step, message=f"tracker {name} failed and is left out: {error}")

    def close(self) -> None:
        """Close the trackers, then the log, whatever a tracker does."""
        for tracker in self._trackers.values():
            with suppress(Exception):
                tracker.close()
        self._log.close()


@contextmanager
def open_trackers(names: Sequence[str], log: Path, total_steps: int) -> Generator[Emit]:
    """The function that emits an event, for as long as the body runs. Raises OSError."""
    fanout = Fanout(EventLog(log), {})
    try:
        for name in names:
            fanout.add(name, TRACKERS[name], total_steps)
        yield fanout.emit
    finally:
        fanout.close()
