"""The reference pages say what the program says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tunewright.config.settings import list_settings

ROOT = Path(__file__).parents[3]


def generate(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)


def test_the_reference_pages_are_up_to_date():
    done = generate("--check")
    assert done.returncode == 0, done.stderr


def test_every_setting_has_a_row():
    page = (ROOT / "docs" / "reference" / "config.md").read_text(encoding="utf-8")
    for setting in list_settings():
        if not setting.section:
            assert f"| `{setting.path.rpartition('.')[2]}` | " in page
