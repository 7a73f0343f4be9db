from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tunewright.cli.run_lines import print_result
from tunewright.errors import ExitCode
from tunewright.run.build import RunResult
from tunewright.train.progress import Progress


def test_the_way_to_go_on_needs_nothing_of_the_first_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Overrides of the command line are in the folder's config.yaml; the run file alone would conflict."""
    print_result(RunResult(Path("my runs/one"), ExitCode.PREEMPTED, Progress(step=3), 10, None))
    captured = capsys.readouterr()
    command = captured.err.splitlines()[-1].partition("go on with: ")[2]
    assert shlex.split(command) == ["tunewright", "train", "--resume", "my runs/one"]
    assert captured.out == ""


def test_the_way_to_try_it_can_be_typed_as_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    export = Path("my runs/one/exports/final")
    print_result(RunResult(Path("my runs/one"), ExitCode.DONE, Progress(step=10), 10, export))
    captured = capsys.readouterr()
    command = captured.err.splitlines()[-1].partition("try it with: ")[2]
    assert shlex.split(command) == ["tunewright", "chat", str(export)]
    assert captured.out == f"{export}\n"
