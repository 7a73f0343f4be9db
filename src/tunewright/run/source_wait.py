"""Waiting for rows that come through a pipe: no hang, however long, but nothing to keep from a person."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from tunewright.data.windows import Reading, Windows
from tunewright.trackers.protocol import Emit
from tunewright.train.watchdog import Watchdog

SILENT_SECONDS = 60.0
"""Wait after which a warning says so; the next one comes after twice that, and so on."""


class SourceWait:
    """Looked at while training waits for its next step. windows: None where the data is in files, whose
    reading may hang like anything else. is_stopped: ends the wait."""

    def __init__(
        self, windows: Windows | None, watchdog: Watchdog, emit: Emit, is_stopped: Callable[[], bool]
    ) -> None:
        self._windows, self._watchdog, self._emit, self._is_stopped = windows, watchdog, emit, is_stopped
        self._since = 0.0
        self._warn_after = SILENT_SECONDS

    def look(self, step: int) -> bool:
        """Whether to give up waiting. step: the last one that was handed out."""
        reading = self._windows.reading if self._windows else None
        if reading:
            self._watchdog.beat()
            self._warn(reading, step)
        return self._is_stopped()

    def _warn(self, reading: Reading, step: int) -> None:
        if reading.since != self._since:
            self._since, self._warn_after = reading.since, SILENT_SECONDS
        now = monotonic()
        waited = now - reading.since
        if waited < self._warn_after:
            return
        self._warn_after *= 2
        message = (
            f"waiting for the pipe: in {waited:.0f} s it gave {reading.rows:,} of the {reading.size:,} rows "
            f"of the next window (data.window), and nothing for the last {now - reading.last:.0f} s"
        )
        self._emit("warning", step, message=message)
