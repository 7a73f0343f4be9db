"""What an engine writes, beyond the rows of the equality table: kinds of adapter, biases, ties, shards."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from families import FAMILIES
from reference_equalities import load_eager, peft_reads_ours, trained_engine, we_read_pefts
from tunewright.engines.torch.certificate import log_probs

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]
ADAPTERS = {
    "rslora": {"rslora": True, "rank": 9},
    "regex": {"targets": r".*layers\.[01]\..*(q_proj|up_proj)"},
    "biases": {"bias": "all", "targets": ("q_proj", "down_proj")},
    "lora_biases": {"bias": "lora_only", "targets": ("q_proj", "k_proj")},
    "head": {"modules_to_save": ("lm_head",)},
    "embedding": {"modules_to_save": ("embed_tokens",)},
}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_loads_biases_of_each_family(family, family_folder, tmp_path):
    targets = ("qkv_proj" if family == "phi3" else "q_proj", "down_proj")
    assert peft_reads_ours(family_folder(family), tmp_path, bias="all", targets=targets) <= 1e-6


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_peft_loads_each_kind(adapter, family_folder, tmp_path):
    assert peft_reads_ours(family_folder("qwen2"), tmp_path, **ADAPTERS[adapter]) <= 1e-6


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("adapter", ["lora_biases", "head"])
def test_we_load_each_kind_of_peft(adapter, family_folder, tmp_path):
    assert we_read_pefts(family_folder("qwen2"), tmp_path, **ADAPTERS[adapter]) <= 1e-6


@pytest.mark.parametrize("adapter", ["head", "embedding"])
def test_merge_unties_what_was_trained_apart(adapter, family_folder, tmp_path):
    engine = trained_engine(family_folder("qwen2"), adapter=ADAPTERS[adapter])
    engine.export(tmp_path, merge=True)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    assert "lm_head.weight" in load_file(tmp_path / "model.safetensors")


def test_full_training_exports_a_model(family_folder, tmp_path):
    engine = trained_engine(family_folder("llama"), adapter={"kind": "none"})
    assert engine.export(tmp_path, merge=False)["kind"] == "merged"


def test_bf16_merge_is_certified(family_folder, tmp_path):
    engine = trained_engine(family_folder("llama"), dtype="bf16", precision="bf16")
    certificate = engine.export(tmp_path, merge=True)
    assert 0 < certificate["difference"] <= certificate["bound"]
    assert all(
        tensor.dtype == torch.bfloat16 for tensor in load_file(tmp_path / "model.safetensors").values()
    )


def test_large_models_are_split_into_shards(family_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tunewright.engines.model_folder.SHARD_BYTES", 100_000)
    engine = trained_engine(family_folder("mistral"))
    engine.export(tmp_path, merge=True)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    model = load_eager(tmp_path)
    tokens = [np.arange(20)]
    assert torch.allclose(
        log_probs(model, tokens, "fp32"), log_probs(engine._model, tokens, "fp32"), atol=1e-5
    )
