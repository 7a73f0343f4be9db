"""`tunewright train` from file to export, stopped, resumed and refused."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from processes import child_environment, command_line, events, losses
from tunewright.errors import ExitCode


def test_a_file_with_model_and_data_is_a_complete_run(tunewright, tmp_path: Path, alpaca_file: Path) -> None:
    (tmp_path / "small.yaml").write_text("model: builtin:tiny\ndata: {train: train.json}\n")
    done = tunewright("train", "small.yaml", "--out", "run", "--max-steps", "2")
    assert done.returncode == ExitCode.DONE, done.stderr
    assert done.stdout.strip() == "run/exports/final"
    plan = json.loads((tmp_path / "run/plan.json").read_text())
    assert plan["total_steps"] == 2
    assert "auto" not in plan["precision"] + plan["device"]
    started = events(tmp_path / "run")[0]
    assert started["type"] == "run_started"
    adapted = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 6)
    assert started["adapted"] == adapted
    assert started["not_adapted"] == {}
    assert "adapter    42 modules: q_proj 6, k_proj 6" in done.stderr


# PEFT asks for an attribute that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_training_lowers_the_held_out_loss_and_the_export_loads_in_peft(
    tunewright, tmp_path: Path, run_file
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tunewright.models.resolve import resolve_model

    done = tunewright("train", run_file, "--out", "run")
    assert done.returncode == ExitCode.DONE, done.stderr
    held_out = [event["valid_loss"] for event in events(tmp_path / "run") if event["type"] == "evaluation"]
    assert held_out[-1] < held_out[0]
    base = AutoModelForCausalLM.from_pretrained(resolve_model("builtin:tiny").folder, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = base(ids).logits
    tuned = PeftModel.from_pretrained(base, tmp_path / "run/exports/final")
    assert not torch.allclose(tuned(ids).logits, before)
    assert (tmp_path / "run/exports/final/tokenizer.json").exists()
    assert (tmp_path / "run/exports/final/certificate.json").exists()


def test_a_stopped_run_resumes_to_the_same_bytes(tunewright, tmp_path: Path, run_file: Path) -> None:
    whole = tunewright("train", run_file, "--out", "whole")
    assert whole.returncode == ExitCode.DONE, whole.stderr
    _stop_after(tmp_path, run_file, "cut", step=3, signal_number=signal.SIGINT)
    resumed = tunewright("train", run_file, "--out", "cut", "--resume")
    assert resumed.returncode == ExitCode.DONE, resumed.stderr
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert _adapter_hash(tmp_path / "cut") == _adapter_hash(tmp_path / "whole")
    guard = _last_guard(tmp_path / "cut")
    assert guard == _last_guard(tmp_path / "whole")
    assert [step for step, _, _ in guard["seen"]] == list(range(1, 13)), "bad steps are judged by all before"


def test_a_killed_run_resumes_to_the_same_bytes(tunewright, tmp_path: Path, run_file: Path) -> None:
    assert tunewright("train", run_file, "--out", "whole").returncode == ExitCode.DONE
    _stop_after(tmp_path, run_file, "killed", step=6, signal_number=signal.SIGKILL)
    resumed = tunewright("train", "--out", "killed", "--resume=auto")
    assert resumed.returncode == ExitCode.DONE, resumed.stderr
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert _adapter_hash(tmp_path / "killed") == _adapter_hash(tmp_path / "whole")


def test_merge_writes_a_model_that_needs_no_adapter(tunewright, tmp_path: Path, run_file: Path) -> None:
    done = tunewright("train", run_file, "--out", "run", "--max-steps", "4", "--merge")
    assert done.returncode == ExitCode.DONE, done.stderr
    final = tmp_path / "run/exports/final"
    assert (final / "config.json").exists()
    assert not (final / "adapter_config.json").exists()
    answer = tunewright("generate", final, "--prompt", "What is 2 plus 2?", "--max-new-tokens", "4")
    assert answer.returncode == 0, answer.stderr


def _stop_after(folder: Path, run_file: Path, out: str, *, step: int, signal_number: int) -> None:
    """Start a run and send it a signal once it has reported `step`."""
    process = subprocess.Popen(
        command_line(["train", run_file, "--out", out]),
        cwd=folder,
        env=child_environment(folder, {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while max(losses(folder / out), default=0) < step and process.poll() is None:
        assert time.monotonic() < deadline, "the run made no progress"
        time.sleep(0.01)
    process.send_signal(signal_number)
    _, log = process.communicate(timeout=60)
    if signal_number == signal.SIGINT:
        assert process.returncode == ExitCode.PREEMPTED, log
        assert "--resume" in log
    else:
        assert process.returncode == -signal.SIGKILL


def _last_guard(run: Path) -> dict[str, Any]:
    """What the newest checkpoint keeps of loss and gradient norm."""
    newest = max((run / "checkpoints").glob("step-*"))
    return json.loads((newest / "run_state.json").read_bytes())["guard"]


def _adapter_hash(run: Path) -> str:
    return hashlib.sha256((run / "exports/final/adapter_model.safetensors").read_bytes()).hexdigest()
