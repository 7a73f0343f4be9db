"""The probe of `make mac-check` for a full memory, on a CPU: only a Mac runs it otherwise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
LIMIT_BYTES = 80 * 2**20


def test_the_probe_meets_the_limit_and_lives() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "mac_memory.py", "cpu", str(LIMIT_BYTES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows_refused"] is not None
    assert found["peak_bytes"] <= LIMIT_BYTES
