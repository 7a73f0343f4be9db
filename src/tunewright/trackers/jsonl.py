"""events.jsonl: the always-written log that the worker, the dashboard and a resumed run read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunewright.trackers.protocol import Event

EVENT_VERSION = 1


class EventLog:
    """Append events, one JSON line each, handed to the system at once.

    Opening an existing log goes on with its `seq`, one `attempt` higher, after cutting off a torn last line.
    A number that is not finite is written as null, which every JSON reader takes.
    """

    def __init__(self, path: Path) -> None:
        last_seq, last_attempt = 0, 0
        if path.exists():
            _cut_torn_tail(path)
            for event in read_events(path):
                last_seq, last_attempt = event["seq"], max(last_attempt, event["attempt"])
        self.seq = last_seq
        self.attempt = last_attempt + 1
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def emit(self, event: Event) -> Event:
        """Number the event and append it; returns it as written. Raises OSError."""
        self.seq += 1
        numbered = {
            "v": EVENT_VERSION,
            "seq": self.seq,
            "attempt": self.attempt,
            **{key: _finite(value) for key, value in event.items()},
        }
        line = json.dumps(numbered, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        while line:
            line = line[os.write(self._handle, line) :]
        return numbered

    def close(self) -> None:
        """Make the log durable and close it."""
        os.fsync(self._handle)
        os.close(self._handle)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Events in order; a torn last line is passed over. Raises ValueError for a broken line before it."""
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)


def read_steps(path: Path) -> dict[int, dict[str, Any]]:
    """Step events by step number, the highest attempt of each."""
    return {event["step"]: event for event in read_events(path) if event["type"] == "step"}


def _cut_torn_tail(path: Path) -> None:
    with open(path, "r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            file.truncate(whole)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
