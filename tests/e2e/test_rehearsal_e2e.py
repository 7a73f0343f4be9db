"""The longest micro-batch is tried before the first step where memory is short, and changes no number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from faulty_engine import faulty_builder
from processes import events
from tunewright import host_memory
from tunewright.config.load import LoadedConfig, load_config
from tunewright.errors import EngineOutOfMemory, ExitCode
from tunewright.run import build
from tunewright.run.build import RunResult
from tunewright.run.inputs import read_inputs
from tunewright.run.parts import build_stream
from tunewright.run.paths import absolute_paths
from tunewright.run.plan import resolve_plan

STEPS = 4
LONGEST = 7
"""Line of the longest row."""
PLENTY = 2**34


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """train(folder, faults by forward_backward call, tried=, resume=): a run of four steps, on a machine with
    little memory where the longest micro-batch is to be tried."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(host_memory, "GROUPS", tmp_path)
    monkeypatch.setattr(host_memory, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("0::/\n")
    rows = [{"instruction": f"Count to {n}", "input": "", "output": "one " * (2 + n % 3)} for n in range(9)]
    rows[LONGEST - 1]["output"] = "one two " * 10
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = {
        "model": "builtin:tiny",
        "engine": "torch",
        "device": "cpu",
        "adapter": {"rank": 2, "dropout": 0.2},
        "data": {"train": "train.jsonl", "eval": 0, "seq_len": 128, "packing": False},
        "train": {
            "max_steps": STEPS,
            "batch_size": 4,
            "micro_batch_size": 4,
            "activation_checkpointing": False,
        },
        "checkpoint": {"every_steps": 2, "export_every": "never"},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(settings))

    def run(
        name: str, faults: dict[int, str] | None = None, *, tried: bool = True, resume: bool = False
    ) -> RunResult:
        loaded = load_config(tmp_path / "run.yaml")
        memory = tmp_path / "memory.max"
        memory.write_text(str(PLENTY))
        if tried:
            memory.write_text(str(_little_memory(loaded)))
        monkeypatch.setattr(build, "build_engine", faulty_builder(faults or {}))
        folder = tmp_path / name
        return build.run_training(
            loaded, out=folder, resume=str(folder) if resume else None, say=lambda line: None
        )

    return run


def _little_memory(loaded: LoadedConfig) -> int:
    """What a run needs 80 % of, when it may plan with the share that it would of PLENTY."""
    inputs = read_inputs(absolute_paths(loaded).config, loaded.base_dir, lambda line: None)
    plan = resolve_plan(inputs, build_stream(inputs, 4, "packed"))
    return int(plan.memory_peak_bytes * (PLENTY / plan.memory_usable_bytes) / 0.8)


def of_type(folder: Path, type: str) -> list[dict[str, Any]]:
    return [event for event in events(folder) if event["type"] == type]


def losses(folder: Path) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in of_type(folder, "step")}


def adapter(folder: Path) -> bytes:
    return (folder / "exports/final/adapter_model.safetensors").read_bytes()


def test_training_is_bit_for_bit_what_it_is_without(train, tmp_path: Path) -> None:
    """From the start and from a checkpoint, with dropout."""
    train("plain", tried=False)
    assert of_type(tmp_path / "plain", "rehearsed") == []
    train("tried")
    assert losses(tmp_path / "tried") == losses(tmp_path / "plain")
    assert adapter(tmp_path / "tried") == adapter(tmp_path / "plain")
    (told,) = of_type(tmp_path / "tried", "rehearsed")
    plan = json.loads((tmp_path / "tried/plan.json").read_text())
    assert (told["rows"], told["planned_bytes"]) == (4, plan["memory_peak_bytes"])
    assert told["bytes"] > 0
    shutil.rmtree(tmp_path / "tried/checkpoints/step-000004")
    shutil.rmtree(tmp_path / "tried/exports")
    train("tried", resume=True)
    assert [event["step"] for event in of_type(tmp_path / "tried", "rehearsed")] == [0, 2]
    assert [event["step"] for event in of_type(tmp_path / "tried", "step")] == [1, 2, 3, 4, 3, 4]
    assert losses(tmp_path / "tried") == losses(tmp_path / "plain")
    assert adapter(tmp_path / "tried") == adapter(tmp_path / "plain")


def test_too_little_memory_splits_before_anything_is_trained(train, tmp_path: Path) -> None:
    train("run", {1: "memory", 2: "memory"})
    kinds = [event["type"] for event in events(tmp_path / "run")]
    assert kinds[:6] == ["run_started", "data", "amended", "amended", "rehearsed", "step"]
    amended = of_type(tmp_path / "run", "amended")
    assert [event["changes"] for event in amended] == [{"micro_batch_size": 2}, {"micro_batch_size": 1}]
    assert (
        "the longest rows of this data do not fit, tried before training as 4 x 128" in amended[0]["reason"]
    )
    (told,) = of_type(tmp_path / "run", "rehearsed")
    assert (told["step"], told["rows"], told["tokens"]) == (0, 1, 128)
    plan = json.loads((tmp_path / "run/plan.json").read_text())
    # plan.json is of the run as it was asked for, four rows a forward pass.
    assert 0 < told["planned_bytes"] < plan["memory_peak_bytes"]
    assert told["bytes"] is None
    assert losses(tmp_path / "run").keys() == set(range(1, STEPS + 1))


def test_one_row_that_does_not_fit_ends_the_run_at_the_start(train, tmp_path: Path) -> None:
    with pytest.raises(EngineOutOfMemory, match="the longest rows of this data do not fit") as caught:
        train("run", dict.fromkeys((1, 2, 3), "memory"))
    assert caught.value.exit_code == ExitCode.OUT_OF_MEMORY
    assert f"train.jsonl:{LONGEST}: " in str(caught.value)
    assert losses(tmp_path / "run") == {}
    assert of_type(tmp_path / "run", "run_finished")[0]["code"] == "engine.out-of-memory"
