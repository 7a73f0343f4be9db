"""A run on the fast layers as a user starts it: the plan says so, a stopped run goes on to the same bits, and
what they cannot do is said once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tunewright.host_cpu import cpu_dtypes
from tunewright.trackers.jsonl import read_steps

SETTINGS = (
    "model.kernels=fast",
    "train.max_steps=6",
    "checkpoint.every_steps=3",
    "checkpoint.export_every=never",
    "evaluate.every_steps=9",
)
OVERRIDES = [part for setting in SETTINGS for part in ("--set", setting)]


def _adapter(run: Path) -> bytes:
    return (run / "exports/final/adapter_model.safetensors").read_bytes()


def test_a_stopped_run_on_fast_layers_goes_on_to_the_same_bits(tunewright, run_file, tmp_path: Path) -> None:
    whole = tunewright("train", run_file, "--out", "whole", *OVERRIDES)
    assert whole.returncode == 0, whole.stderr
    assert "kernels    fast\n" in whole.stderr
    plan = json.loads((tmp_path / "whole/plan.json").read_text())
    assert (plan["kernels"], plan["path"]) == ("fast", "fast")
    losses = {step: values["loss"] for step, values in read_steps(tmp_path / "whole/events.jsonl").items()}
    assert losses[6] < losses[1]

    # What a kill after step 3 leaves behind.
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed/checkpoints/step-000006")
    shutil.rmtree(tmp_path / "killed/exports")
    resumed = tunewright("train", "--resume", "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert "kernels    fast\n" in resumed.stderr
    assert "other roundings" not in resumed.stderr
    again = read_steps(tmp_path / "killed/events.jsonl")
    assert {step: values["loss"] for step, values in again.items()} == losses
    assert _adapter(tmp_path / "killed") == _adapter(tmp_path / "whole")


def test_adapters_on_a_cpu_are_fast_where_it_multiplies_bf16(tunewright, run_file, tmp_path: Path) -> None:
    settings = ("device=cpu", "engine=torch", "train.max_steps=1", "checkpoint.export_every=never")
    overrides = [part for setting in settings for part in ("--set", setting)]
    done = tunewright("train", run_file, "--out", "run", *overrides)
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "run/plan.json").read_text())
    expected = cpu_dtypes()[-1]
    assert (plan["dtype"], plan["precision"]) == (expected, expected)
    assert plan["path"] == {"bf16": "fast", "fp32": "plain: fp32 on a CPU"}[expected]
    said = json.loads(tunewright("plan", run_file, "--device", "cpu", "--json").stdout)
    assert (said["dtype"], said["precision"]) == (expected, expected)


def test_a_mask_of_its_own_with_the_fast_path_asked_for_falls_back_and_says_so_once(
    tunewright, run_file, tmp_path: Path
) -> None:
    changes = ("--set", "model.attention=eager", "--set", "train.max_steps=1")
    done = tunewright("train", run_file, "--out", "run", *OVERRIDES, *changes)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("plain: eager attention (warning: fast was asked for)") == 1
    assert json.loads((tmp_path / "run/plan.json").read_text())["path"] == "plain: eager attention"
