"""Runs that meet bad numbers, too little memory or a broken disk, on the real engine in this process."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faulty_engine import faulty_builder
from processes import events
from tunewright import files
from tunewright.checkpoint.store import CheckpointStore
from tunewright.config.load import load_config
from tunewright.data.prepare_indexed import _SAMPLE, SAMPLE_ROWS
from tunewright.data.shard import EpochOrder, permute
from tunewright.errors import CheckpointError, DataError, EngineError, EngineOutOfMemory, ExitCode
from tunewright.run import build
from tunewright.run.build import RunResult

STEPS = 24


@pytest.fixture
def train(tmp_path: Path, alpaca_file: Path, monkeypatch: pytest.MonkeyPatch):
    """train(faults by forward_backward call, settings…) runs into tmp_path/run."""
    del alpaca_file

    def run(faults: dict[int, str] | None = None, *overrides: str, resume: bool = False) -> RunResult:
        settings = {
            "model": "builtin:tiny",
            "adapter": {"rank": 2, "targets": ["q_proj", "v_proj"], "dropout": 0.0},
            "data": {"train": "train.json", "eval": 0.1, "seq_len": 64},
            # Losses of a batch spread otherwise are equal in fp32; bf16 rounds elsewhere.
            "train": {
                "max_steps": STEPS,
                "batch_size": 4,
                "micro_batch_size": 4,
                "learning_rate": 1e-3,
                "precision": "fp32",
            },
            "checkpoint": {"every_steps": 4, "export_every": "never"},
            "evaluate": {"every_steps": 12},
        }
        (tmp_path / "run.yaml").write_text(json.dumps(settings))
        monkeypatch.setattr(build, "build_engine", faulty_builder(faults or {}))
        loaded = load_config(tmp_path / "run.yaml", overrides=overrides)
        folder = tmp_path / "run"
        return build.run_training(
            loaded, out=folder, resume=str(folder) if resume else None, say=lambda line: None
        )

    return run


def of_type(folder: Path, type: str) -> list[dict[str, Any]]:
    return [event for event in events(folder / "run") if event["type"] == type]


def test_one_bad_step_is_left_out_counted_and_told(train, tmp_path: Path) -> None:
    result = train({7: "nan"})
    assert (result.exit_code, result.progress.skipped_steps) == (ExitCode.DONE, 1)
    assert [event["message"] for event in of_type(tmp_path, "warning")] == [
        "step 7 had no finite gradient and was left out"
    ]
    assert of_type(tmp_path, "step")[-1]["skipped_steps"] == 1


def test_three_bad_steps_go_back_and_the_run_ends_well(train, tmp_path: Path) -> None:
    result = train(dict.fromkeys((10, 11, 12), "nan"))
    assert (result.exit_code, result.progress.step) == (ExitCode.DONE, STEPS)
    (back,) = of_type(tmp_path, "rolled_back")
    assert (back["step"], back["from_step"], back["attempt"]) == (8, 12, 2)
    # 8 steps of 4 rows in an epoch of 36; the ninth step ends it.
    assert back["rows"] == [32, 48]
    state = CheckpointStore(tmp_path / "run/checkpoints", keep=3, keep_best=True).load().run_state
    assert state["progress"]["passed_over"] == [[32, 48]]


def test_numbers_that_stay_bad_are_a_named_end_with_good_checkpoints(train, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="after going back to a checkpoint once") as caught:
        train(dict.fromkeys(range(10, 99), "nan"))
    assert (caught.value.code, caught.value.exit_code) == ("engine.diverged", ExitCode.USER_ERROR)
    assert of_type(tmp_path, "run_finished")[-1]["code"] == "engine.diverged"
    assert CheckpointStore(tmp_path / "run/checkpoints", keep=3, keep_best=True).load().step == 8


@pytest.mark.parametrize("spike", ["warn", "skip", "off"])
def test_a_spike_is_told_left_out_or_ignored(train, tmp_path: Path, spike: str) -> None:
    result = train({21: "spike"}, f"guard.spike={spike}")
    assert result.progress.skipped_steps == (spike == "skip")
    told = [event["message"] for event in of_type(tmp_path, "warning")]
    assert len(told) == (spike != "off")
    assert all(message.startswith("step 21 jumped: gradient_norm") for message in told)


def test_too_little_memory_splits_the_step_and_changes_no_loss(train, tmp_path: Path) -> None:
    train()
    whole = {event["step"]: event["loss"] for event in of_type(tmp_path, "step")}
    (tmp_path / "run").rename(tmp_path / "undisturbed")
    train({6: "memory", 7: "memory"})
    steps = of_type(tmp_path, "step")
    assert [event["step"] for event in steps] == list(range(1, STEPS + 1))
    assert {event["step"]: event["loss"] for event in steps} == pytest.approx(whole, rel=1e-5)
    amended = of_type(tmp_path, "amended")
    assert [event["changes"] for event in amended] == [{"micro_batch_size": 2}, {"micro_batch_size": 1}]
    state = CheckpointStore(tmp_path / "run/checkpoints", keep=3, keep_best=True).load().run_state
    assert state["plan"]["micro_batch_size"] == 1


def test_a_step_that_never_fits_is_out_of_memory(train, tmp_path: Path) -> None:
    with pytest.raises(EngineOutOfMemory) as caught:
        train(dict.fromkeys(range(6, 10), "memory"))
    assert caught.value.exit_code == ExitCode.OUT_OF_MEMORY
    # What was trained before is on disk.
    assert CheckpointStore(tmp_path / "run/checkpoints", keep=3, keep_best=True).load().step == 4


class BrokenSync:
    """os.fsync that fails with an I/O error for files and folders whose path is `hit`, `times` times."""

    def __init__(self, hit: Callable[[str], bool], times: int) -> None:
        self.hit, self.left, self.fsync = hit, times, os.fsync

    def __call__(self, handle: int) -> None:
        if self.left and self.hit(os.readlink(f"/proc/self/fd/{handle}")):
            self.left -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.fsync(handle)


def test_a_save_that_fails_is_a_warning_and_the_next_one_works(
    train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.os, "fsync", BrokenSync(lambda path: "/tmp-000004" in path, 1))
    assert train().exit_code == ExitCode.DONE
    warnings = [event["message"] for event in of_type(tmp_path, "warning")]
    assert len(warnings) == 1, warnings
    assert "the disk reported an input/output error" in warnings[0]
    assert [event["step"] for event in of_type(tmp_path, "checkpoint")] == [8, 12, 16, 20, 24]


def test_a_disk_that_stays_broken_ends_named_with_the_old_checkpoint(
    train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = BrokenSync(lambda path: "/checkpoints/tmp-" in path and "tmp-000004" not in path, 10**9)
    monkeypatch.setattr(files.os, "fsync", later)
    with pytest.raises(CheckpointError) as caught:
        train()
    assert caught.value.code == "checkpoint.disk-error"
    assert of_type(tmp_path, "run_finished")[-1]["code"] == "checkpoint.disk-error"
    assert len(of_type(tmp_path, "warning")) == 5
    monkeypatch.undo()
    assert CheckpointStore(tmp_path / "run/checkpoints", keep=3, keep_best=True).load().step == 4


def test_a_bad_row_met_on_the_way_saves_first_and_names_its_line(train, tmp_path: Path) -> None:
    good = json.dumps({"instruction": "Say it.", "input": "", "output": "it"})
    lines = [good] * (SAMPLE_ROWS + 200)
    unseen = set(permute(np.arange(SAMPLE_ROWS, len(lines)), len(lines), 0, _SAMPLE).tolist())
    order = EpochOrder([(len(lines), 1.0)], 0).rows(0, len(lines)).row_N.tolist()
    # A row that was not looked at beforehand, met in the step after one that is not saved anyway.
    slot = next(at for at in range(20, len(order)) if order[at] in unseen and at // 4 % 4)
    lines[order[slot]] = json.dumps({"instruction": "Say it.", "input": "", "output": ""})
    (tmp_path / "train.json").write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        train(None, "data.loading=indexed", "data.eval=0", "train.max_steps=200")
    assert caught.value.exit_code == ExitCode.DATA_ERROR
    assert (caught.value.where or "").endswith(f"/train.json:{order[slot] + 1}")
    saved = CheckpointStore(tmp_path / "run/checkpoints", keep=3, keep_best=True).load()
    assert saved.step == slot // 4
    assert events(tmp_path / "run")[-1]["step"] == of_type(tmp_path, "step")[-1]["step"] == slot // 4
