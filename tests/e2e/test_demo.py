"""`tunewright demo` as a person runs it: the base fails, the tuned model does not, on dates of any seed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from random import SystemRandom

from tunewright.assets.files import DATE_SAMPLES
from tunewright.cli.demo_view import next_commands


def _run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tunewright.cli.main", *args],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_the_demo_teaches_dates_that_neither_text_nor_samples_hold(tmp_path: Path):
    # Drawn anew each time, so that no seed can be tuned for; a failure names it.
    seed = SystemRandom().randrange(1000, 10**6)
    done = _run("demo", "--eval-seed", str(seed), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    scores = json.loads((tmp_path / "run" / "demo.json").read_text(encoding="utf-8"))
    assert scores["eval_seed"] == seed
    assert scores["rows"] == 100
    assert scores["base_exact"] <= 5, seed
    assert scores["tuned_exact"] >= 90, seed
    # The score is of the answers shown, and the questions were new.
    assert scores["tuned_exact"] == sum(row["tuned"] == row["expected"] for row in scores["answers"])
    trained = DATE_SAMPLES.read_text(encoding="utf-8")
    assert not any(row["expected"] in trained for row in scores["answers"])
    assert f"tuned  {scores['tuned_exact']:>3}%" in done.stdout
    assert "\033" not in done.stdout
    _ask_the_export(scores["answers"], tmp_path)


def _ask_the_export(answers: list[dict[str, str]], folder: Path) -> None:
    """The first command that the demo suggests gives the answer that the demo showed."""
    row = next(row for row in answers if row["tuned"] == row["expected"])
    told = _run("generate", "run/exports/final", "--prompt", row["question"], cwd=folder)
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() == row["expected"]


def test_steps_shorten_the_demo_and_the_folder_is_an_ordinary_run(tmp_path: Path):
    done = _run("demo", "--steps", "2", "--eval-seed", "5", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tunewright train run.yaml" in done.stdout
    run = tmp_path / "run"
    assert {"config.yaml", "plan.json", "events.jsonl", "checkpoints", "exports"} <= {
        path.name for path in run.iterdir()
    }
    assert json.loads((run / "demo.json").read_text(encoding="utf-8"))["steps"] == 2
    again = _run("demo", "--steps", "2", "--out", "run", cwd=tmp_path)
    assert again.returncode == 1
    assert "already holds a run" in again.stderr


def test_the_other_suggested_commands_work(tmp_path: Path):
    shown, trained = next_commands("May 3, 1999", Path("exports/final"))[3::2]
    told = _run(*shlex.split(shown)[1:], cwd=Path.cwd())
    assert told.returncode == 0, told.stderr
    assert "1998-07-02" in told.stdout

    (tmp_path / "YOUR_ROWS.jsonl").write_text(
        "".join(DATE_SAMPLES.read_text(encoding="utf-8").splitlines(keepends=True)[:64]), encoding="utf-8"
    )
    write_file, train = trained.split(" && ")
    subprocess.run(["sh", "-c", write_file], cwd=tmp_path, check=True)
    done = _run(*shlex.split(train)[1:], "--max-steps", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(tmp_path, done.stdout.strip(), "adapter_config.json").is_file()


def test_an_unknown_engine_is_named(tmp_path: Path):
    done = _run("demo", "--engine", "abacus", cwd=tmp_path)
    assert done.returncode == 1
    assert "abacus" in done.stderr
    assert "Traceback" not in done.stderr
