"""The plan that `train` prints: what is set shows, and one is not many."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tunewright.config.load import load_config
from tunewright.data.report import DataReport
from tunewright.engines.protocol import EngineFacts
from tunewright.run.plan import Plan
from tunewright.run.summary import plan_lines

PLAN: dict[str, Any] = {
    "engine": "torch", "device": "cpu", "device_name": "a CPU", "device_memory_bytes": 0, "model": "m",
    "model_hash": "", "dtype": "bf16", "precision": "bf16", "attention": "sdpa", "checkpointed_layers": 1,
    "micro_batch_size": 1, "learning_rate": 1e-4, "total_steps": 1, "steps_per_epoch": 1, "rows": 1,
    "held_out_rows": 1, "seed": 0, "threads": 1, "data_hash": "", "config_hash": "", "versions": {},
}  # fmt: skip


def _lines(*settings: str, biases: int = 0) -> dict[str, str]:
    overrides = ["model=builtin:tiny", "data.train=rows.jsonl", *settings]
    facts = EngineFacts("torch", "cpu", "a CPU", "sdpa", 1000, 10, {}, trainable_biases=biases)
    nothing: dict[str, Any] = {one.name: 0 for one in fields(DataReport)}
    report = DataReport(**nothing)
    lines = plan_lines(
        load_config(None, overrides=overrides).config, Plan(**PLAN), facts, report, Path("folder")
    )
    return {line.split()[0]: line[11:] for line in lines}


def test_settings_of_an_adapter_that_are_off_by_default_show_when_set():
    assert _lines()["trains"] == "lora rank 16, alpha 32, all-linear: 10 parameters (1.00%)"
    text = _lines(
        "adapter.rslora=true", "adapter.dropout=0.05", "adapter.bias=all",
        "adapter.modules_to_save=[lm_head]", biases=3,
    )["trains"]  # fmt: skip
    assert text.startswith(
        "lora rank 16, alpha 32, rslora, dropout 0.05, bias all, lm_head in full, all-linear:"
    )


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_the_model_does_not_have_are_no_secret(bias: str):
    assert f"bias {bias} (warning: the model has none of these)" in _lines(f"adapter.bias={bias}")["trains"]


def test_one_is_not_many():
    lines = _lines("checkpoint.every_steps=1", "evaluate.every_steps=1", "train.batch_size=1")
    assert lines["device"].endswith(", 1 thread")
    assert lines["steps"] == "1 (1 an epoch), 1 example each"
    assert lines["memory"] == "1 layer recomputes its activations"
    assert lines["looks"] == "evaluation every step"
    assert lines["saves"].startswith("checkpoint every step, ")
