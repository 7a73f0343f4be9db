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
