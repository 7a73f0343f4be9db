"""Every example trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from processes import events, losses
from tunewright.errors import ExitCode

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_trains(tunewright, tmp_path: Path, path: Path) -> None:
    done = tunewright("train", path, "--out", "run", "--max-steps", "2")
    assert done.returncode == ExitCode.DONE, done.stderr
    assert done.stdout == "run/exports/final\n"
    assert list(losses(tmp_path / "run")) == [1, 2]
    assert events(tmp_path / "run")[-1]["outcome"] == "done"
    assert [event for event in events(tmp_path / "run") if event["type"] == "warning"] == []


def test_the_page_of_examples_names_each_file() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        assert path.name == "README.md" or f"({path.name})" in page
