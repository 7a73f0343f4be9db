"""A run that a build of checkpoint format 1 began goes on with today's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from processes import losses
from tunewright.errors import ExitCode

FORMAT_1 = Path(__file__).parents[1] / "unit/checkpoint/format_1"


def test_a_run_of_format_1_goes_on_to_the_same_losses(tunewright, tmp_path: Path) -> None:
    shutil.copytree(FORMAT_1, tmp_path, dirs_exist_ok=True)
    before = losses(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/step-000006")
    done = tunewright("train", "run.yaml", "--out", "run", "--resume")
    assert done.returncode == ExitCode.DONE, done.stderr
    assert "resuming from step 4" in done.stderr
    # `auto` was fp32 on every CPU when it was planned, and stays so.
    state = json.loads((tmp_path / "run/checkpoints/step-000006/run_state.json").read_text())
    assert (state["config"]["train"]["precision"], state["plan"]["precision"]) == ("auto", "fp32")
    # Another kind of CPU may differ in the last bits.
    assert losses(tmp_path / "run") == pytest.approx(before, rel=1e-6)
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {"step-000004", "step-000006"}
