"""A run on an nf4 base as a user starts it: the plan says so, a stopped run goes on to the same bits."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tunewright.host_cpu import cpu_dtypes
from tunewright.trackers.jsonl import read_steps

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")

SETTINGS = (
    "model.quantization=4bit",
    "train.optimizer=paged_adamw",
    "train.max_steps=6",
    "checkpoint.every_steps=3",
    "checkpoint.export_every=never",
    "evaluate.every_steps=9",
)
OVERRIDES = [part for setting in SETTINGS for part in ("--set", setting)]


def _adapter(run: Path) -> bytes:
    return (run / "exports/final/adapter_model.safetensors").read_bytes()


def test_a_stopped_run_on_nf4_goes_on_to_the_same_bits(tunewright, run_file, tmp_path: Path) -> None:
    whole = tunewright("train", run_file, "--out", "whole", *OVERRIDES)
    assert whole.returncode == 0, whole.stderr
    assert f"nf4 with double quantisation (linear layers, 4 bits) and {cpu_dtypes()[-1]}" in whole.stderr
    assert "adamw (warning: paged_adamw is for torch on CUDA)" in whole.stderr
    plan = json.loads((tmp_path / "whole/plan.json").read_text())
    assert (plan["quantization"], plan["optimizer"]) == ("nf4", "adamw")
    losses = {step: values["loss"] for step, values in read_steps(tmp_path / "whole/events.jsonl").items()}
    assert losses[6] < losses[1]

    # What a kill after step 3 leaves behind.
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed/checkpoints/step-000006")
    shutil.rmtree(tmp_path / "killed/exports")
    resumed = tunewright("train", "--resume", "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from step 3" in resumed.stderr
    again = read_steps(tmp_path / "killed/events.jsonl")
    assert {step: values["loss"] for step, values in again.items()} == losses
    assert _adapter(tmp_path / "killed") == _adapter(tmp_path / "whole")


def test_full_training_of_a_quantised_base_is_refused_by_line(tunewright, run_file) -> None:
    done = tunewright("train", run_file, "--set", "model.quantization=nf4", "--set", "adapter.kind=none")
    assert done.returncode == 1
    assert "quantised weights cannot be trained themselves" in done.stderr
