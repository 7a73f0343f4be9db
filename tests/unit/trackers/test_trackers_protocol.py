"""The page on the run folder names every metric and every event type."""

from __future__ import annotations

import re
from pathlib import Path

from tunewright.trackers.protocol import EVALUATION_METRICS, EVENT_TYPES, STEP_METRICS

PAGE = Path(__file__).parents[3] / "docs" / "concepts" / "run-folder.md"


def test_page_names_the_whole_vocabulary():
    named = set(re.findall(r"`([a-z_]+)`", PAGE.read_text()))
    assert named >= {*STEP_METRICS, *EVALUATION_METRICS, *EVENT_TYPES}
