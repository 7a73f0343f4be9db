"""Start `tunewright` as a real process, and read the run folder that it leaves."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunewright.trackers.jsonl import read_events


def command_line(arguments: Sequence[str | Path]) -> list[str]:
    code = "from tunewright.cli.main import main; main()"
    return [sys.executable, "-c", code, *map(str, arguments)]


def child_environment(folder: Path, more: dict[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TUNEWRIGHT_CACHE": str(folder / "cache"),
        "NO_COLOR": "1",
        "COLUMNS": "110",
        **more,
    }


def events(run: Path) -> list[dict[str, Any]]:
    """Events of a run folder; empty before it has any."""
    path = run / "events.jsonl"
    return list(read_events(path)) if path.exists() else []


def losses(run: Path) -> dict[int, float]:
    """Loss by step, the highest attempt of each."""
    return {event["step"]: event["loss"] for event in events(run) if event["type"] == "step"}
