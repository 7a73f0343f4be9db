"""Follow events.jsonl while a run writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

READ_BYTES = 1 << 20


class EventTail:
    """Reads on from where it stopped. A last line that is not finished waits for its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """Events that came since the last call, about 1 MiB at most; empty when there are none."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(READ_BYTES)
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for line in whole.splitlines() if (event := _parse(line)) is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    # A line that a power cut left broken is passed over, as every reader of a run folder does.
    try:
        value: Any = json.loads(line)
    except ValueError:
        return None
    event = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    return event if event.keys() >= {"type", "step", "time"} else None
