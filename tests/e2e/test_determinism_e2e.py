"""`train.deterministic: true` from the command line: two runs, the same bytes."""

from __future__ import annotations

from pathlib import Path

from processes import losses
from tunewright.errors import ExitCode


def test_two_runs_on_two_threads_write_the_same_adapter(tunewright, tmp_path: Path, run_file: Path) -> None:
    settings = ("train.deterministic=true", "train.micro_batch_size=2", "train.max_steps=3")
    overrides = [part for setting in settings for part in ("--set", setting)]
    # Waiting threads must not spin: other tests need the cores.
    environment = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    for name in ("one", "two"):
        done = tunewright("train", run_file, "--out", name, *overrides, **environment)
        assert done.returncode == ExitCode.DONE, done.stderr
    first, second = (
        (losses(tmp_path / name), (tmp_path / name / "exports/final/adapter_model.safetensors").read_bytes())
        for name in ("one", "two")
    )
    assert len(first[0]) == 3
    assert first == second
