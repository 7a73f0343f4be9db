"""Runs whose data comes through a pipe: trained on once, resumed, refused when the rows are others."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep

import pytest

from processes import events, losses
from tunewright.config.load import load_config
from tunewright.errors import ConfigError, DataError, ExitCode
from tunewright.run.build import RunResult, run_training

ROWS = [json.dumps({"instruction": f"Say {n}.", "output": f"{n} it is."}) + "\n" for n in range(60)]
SETTINGS = {
    "model": "builtin:tiny",
    "adapter": {"rank": 2, "targets": ["q_proj", "v_proj"], "dropout": 0.1},
    "data": {"train": "-", "eval": 0, "seq_len": 64, "window": 24},
    "train": {"max_steps": 12, "batch_size": 4, "learning_rate": 1e-3},
    "checkpoint": {"every_steps": 4, "export_every": "never"},
}


def train(
    folder: Path,
    rows: list[str],
    *overrides: str,
    resume: bool = False,
    then: Callable[[], None] | None = None,
) -> RunResult:
    """Run in folder/run while a thread writes `rows`. With `then` the pipe stays open to the end of the run,
    and it is called once the rows are written."""
    # A pipe for each run: this process may still hold the reading end of the one before.
    pipe_path = folder / f"rows-{len(list(folder.glob('*.pipe')))}.pipe"
    os.mkfifo(pipe_path)
    (folder / "run.yaml").write_text(json.dumps(SETTINGS))
    over = Event()

    def write() -> None:
        with pipe_path.open("w") as pipe:
            pipe.writelines(rows)
            if then:
                pipe.flush()
                then()
                over.wait(60)

    writer = Thread(target=write, daemon=True)
    writer.start()
    try:
        loaded = load_config(folder / "run.yaml", overrides=(f"data.train={pipe_path.name}", *overrides))
        run = folder / "run"
        return run_training(loaded, out=run, resume=str(run) if resume else None, say=lambda line: None)
    finally:
        over.set()


def adapter(folder: Path) -> str:
    return hashlib.sha256((folder / "run/exports/final/adapter_model.safetensors").read_bytes()).hexdigest()


def test_a_run_stopped_while_it_waits_for_rows_goes_on_as_if_undisturbed(tmp_path: Path) -> None:
    def stop_in_the_second_window() -> None:
        deadline = monotonic() + 60
        while len(losses(tmp_path / "run")) < 5 and monotonic() < deadline:
            sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    assert train(tmp_path, ROWS).exit_code == ExitCode.DONE
    undisturbed = (losses(tmp_path / "run"), adapter(tmp_path))
    report = json.loads((tmp_path / "run/data_report.json").read_text())
    assert (report["loading"], report["rows_bad"], report["eval_rows"]) == ("piped", 0, 0)
    assert 48 <= report["rows_checked"] <= report["rows_read"] == 60
    (tmp_path / "run").rename(tmp_path / "undisturbed")

    assert train(tmp_path, ROWS[:30], then=stop_in_the_second_window).exit_code == ExitCode.PREEMPTED
    with pytest.raises(DataError) as caught:
        train(tmp_path, ROWS[1:], resume=True)
    assert caught.value.code == "data.other-rows"
    assert train(tmp_path, ROWS, resume=True).exit_code == ExitCode.DONE
    assert (losses(tmp_path / "run"), adapter(tmp_path)) == undisturbed


def test_data_that_ends_early_ends_the_run_with_what_was_trained(tmp_path: Path) -> None:
    assert train(tmp_path, ROWS[:18]).exit_code == ExitCode.DONE
    assert sorted(losses(tmp_path / "run")) == [1, 2, 3, 4, 5]
    assert events(tmp_path / "run")[-1]["outcome"] == "done"
    assert (tmp_path / "run/exports/final/adapter_model.safetensors").exists()
    assert (tmp_path / "run/checkpoints/step-000005").exists()


def test_a_bad_row_ends_the_run_with_what_was_trained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.pipe:31"):
        train(tmp_path, [*ROWS[:30], '{"instruction": "no answer"}\n', *ROWS[31:]], "data.window=8")
    assert max(losses(tmp_path / "run")) >= 6
    assert events(tmp_path / "run")[-1]["code"] == "data.missing-field"
    assert sorted((tmp_path / "run/checkpoints").glob("step-*"))[-1].name >= "step-000006"


def test_the_number_of_steps_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(tmp_path, [], "train.max_steps=null")
    assert caught.value.code == "config.max-steps-needed"
