"""Run the command line as a user does: a real process, real files, offline."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from processes import child_environment, command_line

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tunewright(tmp_path: Path) -> Run:
    """Run `tunewright ARGS…` in a fresh folder; returns the finished process with text output."""

    def run(*arguments: str | Path, timeout: float = 240, **environment: str):
        return subprocess.run(
            command_line(arguments),
            cwd=tmp_path,
            env=child_environment(tmp_path, environment),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def alpaca_file(tmp_path: Path) -> Path:
    """40 Alpaca rows about sums."""
    rows = [
        {"instruction": f"What is {a} plus {b}?", "input": "", "output": f"It is {a + b}."}
        for a in range(8)
        for b in range(5)
    ]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def run_file(tmp_path: Path, alpaca_file: Path) -> Path:
    """A small run on the bundled model: 36 rows, 12 steps."""
    path = tmp_path / "run.yaml"
    path.write_text(
        f"""model: builtin:tiny
data: {{train: {alpaca_file.name}, eval: 0.1, seq_len: 256}}
adapter: {{rank: 4, dropout: 0.1}}
train: {{epochs: 2, batch_size: 6, learning_rate: 1e-3}}
checkpoint: {{every_steps: 4}}
evaluate: {{every_steps: 4}}
"""
    )
    return path
