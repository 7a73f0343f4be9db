"""The equality table fails where it should: the classic faults, planted one at a time.

Each measure runs once before its fault, for what it keeps of the sound engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import engine_equalities
from engine_cases import build_spec
from engine_equalities import PACKED, TorchEngine
from equality_table import EQUALITIES
from tunewright.engines.protocol import EngineSpec
from tunewright.engines.torch import attention
from tunewright.engines.torch.attention_call import Rule
from tunewright.engines.torch.engine import build_engine
from tunewright.types import Batch, EngineState

FolderOf = Callable[[str], Path]
ROWS = {equality.name: equality for equality in EQUALITIES}
pytestmark = pytest.mark.usefixtures("one_thread")


def check_seen(row: str, folder: Path, scratch: Path, plant: Callable[[], None]) -> None:
    equality = ROWS[row]
    assert equality.holds(equality.measure(folder, scratch))
    plant()
    assert not equality.holds(equality.measure(folder, scratch))


@pytest.mark.parametrize(
    ("family", "forget"),
    [
        ("mistral", "window"),
        ("gemma2", "window"),
        ("gemma3", "window"),
        ("phi3", "window"),
        ("gemma2", "cap"),
    ],
)
def test_a_forgotten_window_or_soft_cap_is_seen(
    family: str, forget: str, family_folder: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = attention._attend

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: Rule) -> torch.Tensor:
        window = None if forget == "window" else rule.window
        softcap = None if forget == "cap" else rule.softcap
        return real(query, key, value, Rule(rule.scale, window, softcap, rule.dropout))

    def build_unchecked(spec: EngineSpec) -> TorchEngine:
        monkeypatch.setattr(attention, "_attend", real)  # the start-up check would refuse the fault
        engine = build_engine(spec)
        monkeypatch.setattr(attention, "_attend", attend)
        return engine

    def plant() -> None:
        monkeypatch.setattr(engine_equalities, "build_engine", build_unchecked)

    check_seen("packed = alone", family_folder(family), tmp_path, plant)


def test_documents_that_see_each_other_are_seen(
    family_folder: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_document = tuple((sum(lengths),) for lengths in PACKED.doc_lengths)
    leaky = Batch(PACKED.tokens_BT, PACKED.positions_BT, PACKED.weights_BT, one_document)
    check_seen(
        "packed = alone",
        family_folder("llama"),
        tmp_path,
        lambda: monkeypatch.setattr(engine_equalities, "PACKED", leaky),
    )


def test_a_mean_of_means_is_seen(
    family_folder: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TorchEngine.forward_backward

    def mean_of_means(engine: TorchEngine, micro_batches: Sequence[Batch], *, denominator: float) -> None:
        for batch in micro_batches:
            own = float(batch.weights_BT[:, 1:].sum())
            real(engine, [batch], denominator=own * len(micro_batches))

    check_seen(
        "accumulated = one batch",
        family_folder("llama"),
        tmp_path,
        lambda: monkeypatch.setattr(TorchEngine, "forward_backward", mean_of_means),
    )


def test_a_lost_random_state_is_seen(
    family_folder: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TorchEngine.restore

    def restore(engine: TorchEngine, state: EngineState) -> None:
        real(engine, state)
        engine._parts.random.states["cpu"] = torch.Generator().manual_seed(1).get_state()

    check_seen(
        "resumed = undisturbed",
        family_folder("qwen2"),
        tmp_path,
        lambda: monkeypatch.setattr(TorchEngine, "restore", restore),
    )


def test_an_adapter_that_starts_with_a_change_is_seen(
    family_folder: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_changed(spec: EngineSpec) -> TorchEngine:
        engine = build_engine(spec)
        for name, parameter in engine._model.named_parameters():
            if name.endswith("lora_B.weight"):
                parameter.data.fill_(1e-6)
        return engine

    check_seen(
        "LoRA at start = base",
        family_folder("qwen3"),
        tmp_path,
        lambda: monkeypatch.setattr(engine_equalities, "build_engine", build_changed),
    )


def test_fp32_in_the_place_of_bf16_is_seen(
    family_folder: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_fp32(spec: EngineSpec) -> TorchEngine:
        return build_engine(build_spec(spec.model_folder))

    check_seen(
        "bf16 compute ≈ fp32",
        family_folder("llama"),
        tmp_path,
        lambda: monkeypatch.setattr(engine_equalities, "build_engine", build_fp32),
    )
