"""events.jsonl: the always-written log that the worker, the dashboard and a resumed run read."""

from __future__ import annotations

import errno
import json
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tunewright.trackers.protocol import Event

EVENT_VERSION = 1
LINES_KEPT = 10_000
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class EventLog:
    """Append events, one JSON line each, handed to the system at once.

    Opening an existing log goes on with its `seq`, one `attempt` higher, after cutting off a torn last line.
    A number that is not finite is written as null, which every JSON reader takes. Lines that a full disk
    refuses are kept, LINES_KEPT at most, and written as soon as there is room.
    """

    def __init__(self, path: Path) -> None:
        last_seq, last_attempt = 0, 0
        if path.exists():
            _cut_torn_tail(path)
            for event in read_events(path):
                last_seq = max(last_seq, event["seq"])
                last_attempt = max(last_attempt, event["attempt"])
        self.seq = last_seq
        self.attempt = last_attempt + 1
        self._path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._unwritten: deque[bytes] = deque()

    def emit(self, event: Event) -> Event:
        """Number the event and append it; returns it as written. Raises OSError."""
        self.seq += 1
        if event["type"] == "rolled_back":
            # Steps come again, as they do after a restart; readers take the highest attempt of each.
            self.attempt += 1
        numbered = {
            "v": EVENT_VERSION,
            "seq": self.seq,
            "attempt": self.attempt,
            **{key: _finite(value) for key, value in event.items()},
        }
        self._unwritten.append(json.dumps(numbered, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        try:
            self._write_kept()
        except OSError as error:
            if error.errno not in NO_ROOM or len(self._unwritten) > LINES_KEPT:
                raise
        return numbered

    def close(self) -> None:
        """Write what was kept, make the log durable and close it. Raises OSError."""
        try:
            self._write_kept()
            os.fsync(self._handle)
        finally:
            os.close(self._handle)

    def _write_kept(self) -> None:
        while self._unwritten:
            line = self._unwritten[0]
            written = 0
            try:
                while written < len(line):
                    written += os.write(self._handle, line[written:])
            except OSError as error:
                # A line that only fits in part must not stand in front of the next try.
                os.ftruncate(self._handle, os.fstat(self._handle).st_size - written)
                error.filename = error.filename or str(self._path)
                raise
            self._unwritten.popleft()


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Events in order. A torn last line, or a line that a power cut left broken, is passed over: the gap in
    `seq` shows it. Raises OSError."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n") and (event := _parse(line)) is not None:
                yield event


def read_steps(path: Path) -> dict[int, dict[str, Any]]:
    """Step events by step number in rising order, the highest attempt of each."""
    steps: dict[int, dict[str, Any]] = {}
    for event in read_events(path):
        known = steps.get(event["step"])
        if event["type"] == "step" and (known is None or event["attempt"] >= known["attempt"]):
            steps[event["step"]] = event
    return dict(sorted(steps.items()))


def _cut_torn_tail(path: Path) -> None:
    with open(path, "r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            file.truncate(whole)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    event = cast("dict[str, Any]", value)
    return event if event.keys() >= {"seq", "attempt", "type", "step"} else None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in cast("Sequence[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
