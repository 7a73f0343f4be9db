"""Suggested commands can be typed as they are printed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tunewright.cli.program import program_name


def test_the_program_is_named_as_it_can_be_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "venv/bin/tunewright"
    script.parent.mkdir(parents=True)
    script.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert program_name() == "venv/bin/tunewright"
    monkeypatch.chdir(script.parent)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert program_name() == str(script)
    monkeypatch.setattr(sys, "argv", ["/somewhere/main.py"])
    assert program_name() == "tunewright"
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", str(script.parent))
    assert program_name() == "tunewright"
