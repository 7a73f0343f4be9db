"""Resolution of every `auto`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunewright.config.schema import RunConfig
from tunewright.data.collate import BatchShape
from tunewright.data.example_rows import MemoryRows
from tunewright.data.step import StepRule
from tunewright.data.stream import StepStream
from tunewright.engines.protocol import DeviceFacts
from tunewright.errors import ConfigError, EngineError
from tunewright.models.known import known_arch
from tunewright.run.engine_options import resolve_quantization
from tunewright.run.plan import (
    Plan,
    amend_plan,
    installed_versions,
    read_plan,
    resolve_dtypes,
    resolve_learning_rate,
    resolve_total_steps,
    usable_threads,
)
from tunewright.run.split import resolve_micro_batch_size
from tunewright.types import Example, SourceRef

CPU = DeviceFacts("cpu", "a processor", 8 << 30, ("fp32", "bf16"))
OLD_CPU = DeviceFacts("cpu", "an old processor", 8 << 30, ("fp32",))
GPU = DeviceFacts("cuda:0", "a GPU", 80 << 30, ("bf16", "fp16", "fp32"))
ARCH = known_arch("Qwen/Qwen2.5-7B")
# Of a build before 4-bit bases and choices of layers.
_STATE = Path(__file__).parents[1] / "checkpoint/format_1/run/checkpoints/step-000004/run_state.json"
OLD_PLAN = json.loads(_STATE.read_text())["plan"]
OLD_GPU = DeviceFacts("cuda:0", "an old GPU", 16 << 30, ("fp16", "fp32"))


def config(**sections: Any) -> RunConfig:
    data = {"train": "x.json", **sections.pop("data", {})}
    return RunConfig.model_validate({"model": sections.pop("model", "m"), "data": data, **sections})


@pytest.mark.parametrize(
    ("device", "kind", "expected"),
    [
        (CPU, "lora", ("bf16", "bf16")),
        (CPU, "none", ("fp32", "fp32")),
        (OLD_CPU, "lora", ("fp32", "fp32")),
        (GPU, "lora", ("bf16", "bf16")),
        (GPU, "none", ("fp32", "bf16")),
        (OLD_GPU, "lora", ("fp16", "fp16")),
    ],
)
def test_precision_follows_the_device(device: DeviceFacts, kind: str, expected: tuple[str, str]) -> None:
    assert resolve_dtypes(config(adapter=kind), device) == expected


def test_a_precision_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="bf16"):
        resolve_dtypes(config(train={"precision": "bf16"}), OLD_GPU)


def test_storage_can_be_named() -> None:
    assert resolve_dtypes(config(model={"name": "m", "dtype": "fp32"}), CPU) == ("fp32", "bf16")
    assert resolve_dtypes(config(model={"name": "m", "dtype": "fp32"}), OLD_CPU) == ("fp32", "fp32")


def test_storage_that_cannot_be_computed_with_is_refused_before_anything_is_loaded() -> None:
    asked = config(model={"name": "m", "dtype": "bf16"}, train={"precision": "fp32"})
    with pytest.raises(EngineError, match="stored in bf16") as caught:
        resolve_dtypes(asked, CPU)
    assert caught.value.code == "engine.dtype-mismatch"


def test_precision_can_be_named() -> None:
    assert resolve_dtypes(config(train={"precision": "fp32"}), CPU) == ("fp32", "fp32")
    assert resolve_dtypes(config(train={"precision": "bf16"}, adapter="none"), CPU) == ("fp32", "bf16")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resume_computes_in_what_its_plan_says(precision: str) -> None:
    """Whatever `auto` would come to by now, on this machine or with this build."""
    plan = read_plan({**OLD_PLAN, "dtype": precision, "precision": precision}, config(), ARCH)
    amended, changes = amend_plan(plan, config(), config(), ARCH)
    assert (amended.dtype, amended.precision, changes) == (precision, precision, {})


def test_micro_batch_fills_its_token_budget_but_never_exceeds_the_batch() -> None:
    assert resolve_micro_batch_size(config(data={"seq_len": 4096})) == 2
    assert resolve_micro_batch_size(config(data={"seq_len": 32768})) == 1
    assert resolve_micro_batch_size(config(data={"seq_len": 64})) == 16
    assert resolve_micro_batch_size(config(train={"micro_batch_size": 5})) == 5
    by_tokens = config(data={"seq_len": 64}, train={"tokens_per_batch": 200})
    assert resolve_micro_batch_size(by_tokens) == 4


def test_a_resume_may_spread_the_same_work_otherwise() -> None:
    plan = Plan.model_construct(micro_batch_size=16, checkpointed_layers=0)
    same, changes = amend_plan(plan, config(), config(), ARCH)
    assert (same, changes) == (plan, {})
    now = config(train={"micro_batch_size": 2, "activation_checkpointing": True})
    amended, changes = amend_plan(plan, config(), now, ARCH)
    assert changes == {"micro_batch_size": 2, "checkpointed_layers": ARCH.layers}
    assert (amended.micro_batch_size, amended.checkpointed_layers) == (2, ARCH.layers)
    _, kept = amend_plan(amended, now, config(), ARCH)
    assert kept == {}
    fewer = config(train={"activation_checkpointing": 3})
    assert amend_plan(amended, now, fewer, ARCH)[0].checkpointed_layers == 3
    with pytest.raises(ConfigError, match=f"at most {ARCH.layers}"):
        amend_plan(amended, now, config(train={"activation_checkpointing": ARCH.layers + 1}), ARCH)


@pytest.mark.parametrize(("was", "layers"), [(False, 0), (True, ARCH.layers)])
def test_a_plan_of_an_earlier_build_says_which_layers_recompute(was: bool, layers: int) -> None:
    plan = read_plan({**OLD_PLAN, "activation_checkpointing": was}, config(), ARCH)
    assert plan.checkpointed_layers == layers
    assert read_plan(plan.model_dump(mode="json"), config(), ARCH) == plan


def test_a_plan_without_a_quantisation_had_that_of_its_engine() -> None:
    old = {**OLD_PLAN, "activation_checkpointing": False}
    packed = config(model={"name": "m", "quantization": "4bit"})
    assert read_plan({**old, "engine": "mlx"}, packed, ARCH).quantization == "4bit"
    assert read_plan(old, packed, ARCH).quantization == "nf4"
    assert read_plan(old, config(), ARCH).quantization == "none"
    assert read_plan({**old, "quantization": "none"}, packed, ARCH).quantization == "none"


def test_learning_rate_follows_what_is_trained() -> None:
    assert resolve_learning_rate(config()) == 2e-4
    assert resolve_learning_rate(config(adapter="none")) == 2e-5
    assert resolve_learning_rate(config(train={"learning_rate": 3e-3})) == 3e-3


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"), [(3, None, 30), (0.5, None, 5), (0.01, None, 1), (3, 7, 7), (1, 70, 10)]
)
def test_total_steps(epochs: float, max_steps: int | None, steps: int) -> None:
    asked = config(train={"epochs": epochs, "max_steps": max_steps})
    assert resolve_total_steps(asked, make_stream(rows=40, batch_size=4)) == steps


def test_total_steps_that_only_reading_would_tell_need_max_steps() -> None:
    stream = make_stream(rows=40, tokens_per_batch=8, rows_of=LateRows)
    assert resolve_total_steps(config(train={"max_steps": 70}), stream) == 70
    with pytest.raises(ConfigError, match="not known before the data has been read") as caught:
        resolve_total_steps(config(), stream)
    assert caught.value.code == "config.max-steps-needed"


def make_stream(
    *,
    rows: int,
    batch_size: int = 1,
    tokens_per_batch: int | None = None,
    rows_of: type[MemoryRows] = MemoryRows,
) -> StepStream:
    example = Example(np.ones(4, np.int32), np.ones(4, np.float32), SourceRef("a", 1))
    rule = StepRule(batch_size, tokens_per_batch, BatchShape(1, 8, packing=True, pad_id=0))
    return StepStream([(rows_of([[example]] * rows), 1.0)], rule, seed=0)


class LateRows(MemoryRows):
    """Rows whose lengths are known only once they are read."""

    def lengths(self) -> None:
        return None


def test_threads_are_those_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert usable_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert usable_threads() >= 1


def test_versions_name_what_can_change_a_number() -> None:
    assert {"python", "numpy", "torch", "transformers"} <= installed_versions().keys()


def test_each_engine_has_one_form_of_4_bits_and_refuses_the_other() -> None:
    forms = {kind: config(model={"name": "m", "quantization": kind}) for kind in ("4bit", "nf4")}
    assert resolve_quantization(forms["4bit"], "torch", "cpu") == "nf4"
    assert resolve_quantization(forms["4bit"], "mlx", "mps") == "4bit"
    assert resolve_quantization(forms["nf4"], "torch", "cuda") == "nf4"
    with pytest.raises(ConfigError, match="nf4 with the mlx engine") as caught:
        resolve_quantization(forms["nf4"], "mlx", "cpu")
    assert caught.value.code == "config.conflict"
    assert str(caught.value.hint).endswith(", or engine: torch")


@pytest.mark.parametrize(
    ("kind", "engine", "hint"),
    [("nf4", "mlx", ""), ("nf4", "torch", ", with engine: mlx"), ("4bit", "torch", ", with engine: mlx")],
)
def test_nf4_is_refused_on_an_apple_gpu_without_a_hint_that_leads_there_again(
    kind: str, engine: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match="on an Apple GPU") as caught:
        resolve_quantization(config(model={"name": "m", "quantization": kind}), engine, "mps")
    assert caught.value.hint == f"set model.quantization: 4bit, which computes other numbers{hint}"
