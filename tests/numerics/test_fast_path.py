"""The fast layers against the plain path, against PEFT on Hugging Face, and against themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from engine_cases import Document, build_spec, draw_documents, lay_out, total_weight
from engine_equalities import DOCUMENTS, HALVES, PACKED, same_state, train
from reference_equalities import load_eager, trained_engine
from tunewright.engines.torch.engine import TorchEngine, build_engine
from tunewright.models.fast_activations import LONGEST_KEPT

FAST = ("llama", "qwen2", "qwen3", "mistral", "gemma")
STEPS = 20
FolderOf = Callable[[str], Path]
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


def build(folder: Path, kernels: str = "fast", **changes: Any) -> TorchEngine:
    engine = build_engine(build_spec(folder, kernels=kernels, **changes))
    assert engine.facts.kernels == kernels
    return engine


def losses(engine: TorchEngine) -> list[float]:
    """Mean loss of each of 20 steps; one document is longer than the tiny families' window."""
    documents = draw_documents([5, 41, 2, 17, 17, 9])
    batches = [lay_out([documents[:2]]), lay_out([documents[2:]])]
    found = []
    for _ in range(STEPS):
        engine.forward_backward(batches, denominator=total_weight(documents))
        sums = engine.optim_step(lr=5e-3, skip_above=None).read().sums
        found.append(sums.loss / sums.weight)
    return found


@pytest.mark.parametrize("family", FAST)
def test_twenty_losses_equal_the_plain_path(family: str, family_folder: FolderOf) -> None:
    """fp32: the same sums in another order, over 20 steps."""
    plain, fast = (losses(build(family_folder(family), kernels)) for kernels in ("plain", "fast"))
    assert fast == pytest.approx(plain, rel=1e-5)
    assert fast[-1] < fast[0]


@pytest.mark.parametrize("family", FAST)
def test_twenty_losses_in_bf16_stay_at_fp32(family: str, family_folder: FolderOf) -> None:
    """Each way rounds to 8 bits (0.4 %) in other places, so neither is the other's reference: fp32 is."""
    folder = family_folder(family)
    exact = losses(build(folder))
    half = {"dtype": "bf16", "precision": "bf16"}
    plain, fast = (losses(build(folder, kernels, **half)) for kernels in ("plain", "fast"))
    assert fast == pytest.approx(exact, rel=2e-2)
    assert fast == pytest.approx(plain, rel=2e-2)
    assert fast != exact


@pytest.mark.parametrize("family", FAST)
def test_gradients_equal_those_of_peft(family: str, family_folder: FolderOf, tmp_path: Path) -> None:
    from peft import PeftModel

    folder = family_folder(family)
    engine = trained_engine(folder, kernels="fast")
    assert engine.facts.kernels == "fast"
    engine.export(tmp_path, merge=False)
    reference: Any = PeftModel.from_pretrained(load_eager(folder), tmp_path, is_trainable=True)
    _documents_loss(reference, DOCUMENTS).backward()
    engine.forward_backward([PACKED], denominator=total_weight(DOCUMENTS))
    ours = {name: p.grad for name, p in engine._model.named_parameters() if p.requires_grad}
    assert len(ours) > 20
    for name, gradient in ours.items():
        kind, _, rest = name.rpartition(".lora_")
        side, _, last = rest.partition(".")
        expected = reference.get_parameter(f"base_model.model.{kind}.lora_{side}.default.{last}").grad
        assert gradient is not None
        assert float((gradient - expected).norm() / expected.norm()) < 1e-4, name


def _documents_loss(model: Any, documents: list[Document]) -> torch.Tensor:
    """The library's logits of each document alone, and the weighted mean written out."""
    loss = torch.zeros(())
    for tokens, weights in documents:
        ids = torch.from_numpy(tokens.astype(np.int64))
        nll = F.cross_entropy(model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none")
        loss = loss + (nll * torch.from_numpy(weights[1:])).sum()
    return loss / total_weight(documents)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": "bf16", "precision": "bf16"},
        {"dtype": "bf16", "precision": "bf16", "quantization": "nf4"},
        {"adapter": {"dropout": 0.3}},
        {"checkpointed_layers": 2},
    ],
    ids=["fp32", "bf16", "nf4", "dropout", "recomputed"],
)
def test_a_resumed_run_equals_an_undisturbed_one(changes: dict[str, Any], family_folder: FolderOf) -> None:
    folder = family_folder("qwen2")
    whole, second = build(folder, **changes), build(folder, **changes)
    train(whole, HALVES, DOCUMENTS)
    train(second, HALVES, DOCUMENTS, steps=1)
    second.restore(whole.snapshot())
    assert train(second, HALVES, DOCUMENTS) == train(whole, HALVES, DOCUMENTS)
    assert same_state(second.snapshot(), whole.snapshot())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_runs_are_bitwise_equal_under_deterministic(precision: str, family_folder: FolderOf) -> None:
    folder = family_folder("llama")
    changes = {"dtype": precision, "precision": precision, "deterministic": True}
    first, second = (build(folder, **changes) for _ in range(2))
    assert train(first, [PACKED], DOCUMENTS) == train(second, [PACKED], DOCUMENTS)
    assert same_state(first.snapshot(), second.snapshot())


def test_recomputed_activations_change_no_bit(family_folder: FolderOf) -> None:
    folder = family_folder("qwen3")
    adapter = {"dropout": 0.2}
    kept, recomputed = (build(folder, checkpointed_layers=count, adapter=adapter) for count in (0, 3))
    assert train(kept, [PACKED], DOCUMENTS) == train(recomputed, [PACKED], DOCUMENTS)


def test_nf4_weights_are_those_of_the_plain_path(family_folder: FolderOf) -> None:
    folder = family_folder("llama")
    plain, fast = (losses(build(folder, kernels, quantization="nf4")) for kernels in ("plain", "fast"))
    assert fast == pytest.approx(plain, rel=1e-5)


def test_a_document_too_long_for_kept_probabilities(family_folder: FolderOf) -> None:
    """Then attention is that of the plain path, in the same layers."""
    documents = draw_documents([LONGEST_KEPT + 1, 9])
    batch = lay_out([documents])
    figures = []
    for kernels in ("plain", "fast"):
        engine = build(family_folder("qwen2"), kernels)
        engine.forward_backward([batch], denominator=total_weight(documents))
        stats = engine.optim_step(lr=1e-2, skip_above=None).read()
        figures.append((stats.sums.loss, stats.gradient_norm))
    assert figures[1] == pytest.approx(figures[0], rel=1e-5)


def test_merged_and_exported_as_on_the_plain_path(family_folder: FolderOf, tmp_path: Path) -> None:
    engine = trained_engine(family_folder("gemma"), kernels="fast")
    for merge in (False, True):
        target = tmp_path / str(merge)
        target.mkdir()
        assert engine.export(target, merge=merge)["kind"]
