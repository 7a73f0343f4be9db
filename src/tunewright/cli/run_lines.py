"""What `train` says before and after the run. Log lines go to stderr; the export's path is the data."""

from __future__ import annotations

import shlex
import sys

import typer

from tunewright.cli.program import program_name
from tunewright.run.build import RunResult
from tunewright.run.wording import counted


def say(line: str) -> None:
    """One line for a person."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def print_result(result: RunResult) -> None:
    """How the run ended and what to do next."""
    progress = result.progress
    if result.export is None:
        say(f"stopped at step {progress.step:,} of {result.total_steps:,}; everything up to it is saved")
        # Without the run file: the folder has it with every override of the command line.
        say(f"go on with: {shlex.join([program_name(), 'train', '--resume', str(result.folder)])}")
        return
    steps, tokens = counted(progress.step, "step"), counted(progress.tokens, "token")
    say(f"done: {steps}, {tokens}, {counted(progress.skipped_steps, 'step')} skipped")
    say(f"try it with: {shlex.join([program_name(), 'chat', str(result.export)])}")
    typer.echo(result.export)
