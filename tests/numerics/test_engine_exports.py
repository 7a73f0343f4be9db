"""What an engine writes computes what it computed; PEFT reads our adapters and we read PEFT's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from families import FAMILIES
from tunewright.engines.torch.certificate import log_probs
from tunewright.engines.torch.engine import build_engine

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]
ADAPTERS = {
    "plain": {},
    "rslora": {"rslora": True, "rank": 9},
    "regex": {"targets": r".*layers\.[01]\..*(q_proj|up_proj)"},
    "biases": {"bias": "all", "targets": ("q_proj", "down_proj")},
    "lora_biases": {"bias": "lora_only", "targets": ("q_proj", "k_proj")},
    "head": {"modules_to_save": ("lm_head",)},
    "embedding": {"modules_to_save": ("embed_tokens",)},
}


def _trained(folder, **changes):
    engine = build_engine(build_spec(folder, **changes))
    documents = draw_documents([30, 12, 41])
    for _ in range(3):
        engine.forward_backward([lay_out([documents])], denominator=total_weight(documents))
        engine.optim_step(lr=2e-2, skip_above=None)
    return engine


def _loss(model, tokens, weights):
    labels = torch.from_numpy(np.where(weights > 0, tokens, -100).astype(np.int64))[None]
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None], labels=labels).loss.item()


def _document():
    tokens, weights = draw_documents([45], seed=5)[0]
    return tokens, (weights > 0).astype(np.float32)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", ["plain", "biases"])
def test_peft_loads_our_adapter(family, adapter, family_folder, tmp_path):
    folder = family_folder(family)
    settings = ADAPTERS[adapter]
    if family == "phi3" and "targets" in settings:
        settings = {**settings, "targets": ("qkv_proj", "down_proj")}
    _check_peft(folder, settings, tmp_path)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_peft_loads_each_kind(adapter, family_folder, tmp_path):
    _check_peft(family_folder("qwen2"), ADAPTERS[adapter], tmp_path)


def _check_peft(folder, settings, tmp_path):
    engine = _trained(folder, adapter=settings)
    certificate = engine.export(tmp_path, merge=False)
    assert certificate["bytes_equal"]
    assert certificate["changes_the_base"]
    base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    tokens, weights = _document()
    before = _loss(base.eval(), tokens, weights)
    model = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    ours = engine.evaluate(lay_out([[(tokens, weights)]]))
    theirs = _loss(model, tokens, weights)
    assert theirs == pytest.approx(ours.loss / ours.weight, rel=1e-6)
    assert abs(theirs - before) > 1e-3


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("adapter", ["plain", "lora_biases", "head"])
def test_we_load_an_adapter_of_peft(adapter, family_folder, tmp_path):
    folder = family_folder("qwen2")
    settings = ADAPTERS[adapter]
    base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    targets = settings.get("targets", "all-linear")
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=targets if isinstance(targets, str) else list(targets),
        bias=settings.get("bias", "none"),
        modules_to_save=list(settings.get("modules_to_save", ())) or None,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path)
    tokens, weights = _document()
    engine = build_engine(build_spec(folder, adapter=settings, adapter_folder=tmp_path))
    ours = engine.evaluate(lay_out([[(tokens, weights)]]))
    assert ours.loss / ours.weight == pytest.approx(_loss(model, tokens, weights), rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_equals_adapter(family, family_folder, tmp_path):
    engine = _trained(family_folder(family))
    certificate = engine.export(tmp_path, merge=True)
    assert certificate["largest_difference"] < 1e-4
    assert certificate["largest_difference"] <= certificate["bound"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    tokens, weights = _document()
    ours = engine.evaluate(lay_out([[(tokens, weights)]]))
    assert _loss(model, tokens, weights) == pytest.approx(ours.loss / ours.weight, rel=1e-5)


@pytest.mark.parametrize("adapter", ["head", "embedding"])
def test_merge_unties_what_was_trained_apart(adapter, family_folder, tmp_path):
    engine = _trained(family_folder("qwen2"), adapter=ADAPTERS[adapter])
    engine.export(tmp_path, merge=True)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    assert "lm_head.weight" in load_file(tmp_path / "model.safetensors")


def test_full_training_exports_a_model(family_folder, tmp_path):
    engine = _trained(family_folder("llama"), adapter={"kind": "none"})
    assert engine.export(tmp_path, merge=False)["kind"] == "merged"


def test_bf16_merge_is_certified(family_folder, tmp_path):
    engine = _trained(family_folder("llama"), dtype="bf16", precision="bf16")
    certificate = engine.export(tmp_path, merge=True)
    assert 0 < certificate["largest_difference"] <= certificate["bound"]
    assert all(
        tensor.dtype == torch.bfloat16 for tensor in load_file(tmp_path / "model.safetensors").values()
    )


def test_large_models_are_split_into_shards(family_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tunewright.engines.torch.export.SHARD_BYTES", 100_000)
    engine = _trained(family_folder("mistral"))
    engine.export(tmp_path, merge=True)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    tokens = [np.arange(20)]
    assert torch.allclose(
        log_probs(model, tokens, "fp32"), log_probs(engine._model, tokens, "fp32"), atol=1e-5
    )
