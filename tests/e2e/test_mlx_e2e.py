"""The same run file on both engines, as a user starts it: equal losses, equal answers, one export."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tunewright.assets.files import TINY_MODEL
from tunewright.trackers.jsonl import read_steps

pytest.importorskip("mlx.core")

ENGINES = ("torch", "mlx")
# Of the torch engine's losses. fp32 sums in another order; 1e-6 was measured.
TOLERANCE = 1e-4
QUESTION = "What is 3 plus 4?"


def _losses(run: Path) -> list[tuple[float, float]]:
    return [(step["loss"], step["gradient_norm"]) for step in read_steps(run / "events.jsonl").values()]


def test_both_engines_train_alike_and_answer_alike(tunewright, run_file, tmp_path: Path) -> None:
    settings = (
        "adapter.dropout=0",
        "train.precision=fp32",
        "train.max_steps=4",
        "train.micro_batch_size=3",
        "evaluate.every_steps=9",
    )
    overrides = [part for setting in settings for part in ("--set", setting)]
    for engine in ENGINES:
        done = tunewright("train", run_file, "--out", engine, "--set", f"engine={engine}", *overrides)
        assert done.returncode == 0, done.stderr
    torch_steps, mlx_steps = (_losses(tmp_path / engine) for engine in ENGINES)
    assert len(torch_steps) == 4
    for expected, found in zip(torch_steps, mlx_steps, strict=True):
        assert found == pytest.approx(expected, rel=TOLERANCE)
    first, second = (
        tunewright(
            "generate", "torch", "--engine", engine, "--prompt", QUESTION, "--max-new-tokens", "6"
        ).stdout.strip()
        for engine in ENGINES
    )
    assert first
    assert first == second


@pytest.mark.slow
def test_mlx_lm_answers_from_our_export(tunewright, run_file, tmp_path: Path) -> None:
    done = tunewright("train", run_file, "--out", "run", "--set", "engine=mlx", "--set", "adapter.dropout=0")
    assert done.returncode == 0, done.stderr
    command = [
        sys.executable, "-m", "mlx_lm", "generate", "--model", str(TINY_MODEL), "--max-tokens", "12",
        "--temp", "0", "--prompt", QUESTION, "--verbose", "False",
    ]  # fmt: skip
    texts = [
        subprocess.run([*command, *extra], capture_output=True, text=True, check=True, timeout=240).stdout
        for extra in ([], ["--adapter-path", str(tmp_path / "run/exports/final")])
    ]
    assert texts[0] != texts[1]
    assert "It is" in texts[1]


@pytest.mark.slow
def test_the_demo_learns_alike_on_both_engines(tunewright, tmp_path: Path) -> None:
    for engine in ENGINES:
        done = tunewright("demo", "--engine", engine, "--steps", "30", "--out", engine, timeout=1500)
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / engine / "demo.json").read_text())["steps"] == 30
    torch_steps, mlx_steps = (_losses(tmp_path / engine) for engine in ENGINES)
    for (expected, _), (found, _) in zip(torch_steps, mlx_steps, strict=True):
        assert found == pytest.approx(expected, rel=TOLERANCE)
