"""Where the bundled files are."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

TINY_MODEL = _FOLDER / "tiny"
DATE_SAMPLES = _FOLDER / "samples" / "dates.jsonl"
