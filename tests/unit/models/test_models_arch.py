from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from families import FAMILIES
from tunewright.errors import ModelError
from tunewright.models.arch import load_arch


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_equal_those_of_the_loaded_model(family: str, family_folder: Callable[[str], Path]) -> None:
    folder = family_folder(family)
    arch = load_arch(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    assert arch.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert arch.tied == config.tie_word_embeddings
    assert (arch.layers, arch.hidden_size, arch.heads) == (config.num_hidden_layers, 64, 4)
    assert (arch.kv_heads, arch.head_size, arch.intermediate_size) == (2, 16, 96)
    assert (arch.vocab_size, arch.max_positions) == (config.vocab_size, 512)
    head = model.get_output_embeddings()
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]
    assert sorted(linear) == list(arch.linear_modules)
    assert arch.embedding_parameters == (1 if arch.tied else 2) * head.weight.numel()
    assert arch.attention_soft_cap == getattr(config, "attn_logit_softcapping", None)
    assert arch.final_soft_cap == getattr(config, "final_logit_softcapping", None)


@pytest.mark.parametrize(
    ("family", "windows"),
    [
        ("gemma2", (16, None, 16, None)),
        ("gemma3", (16, None, 16, None)),
        ("mistral", (16, 16, 16)),
        ("llama", (None, None, None)),
    ],
)
def test_windows_of_each_layer(
    family: str, windows: tuple[int | None, ...], family_folder: Callable[[str], Path]
) -> None:
    assert load_arch(family_folder(family)).windows == windows


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "gemma2", "sliding_window": 8, "num_hidden_layers": 5},
        {"model_type": "gemma3_text", "sliding_window": 8, "num_hidden_layers": 13},
        {"model_type": "gemma3_text", "sliding_window_pattern": 2},
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1},
        {"model_type": "mistral"},
    ],
)
def test_windows_without_layer_types_equal_the_librarys(changes: dict, llama: Path, edit_json) -> None:
    edit_json(llama / "config.json", **{"architectures": None, **changes})
    config = AutoConfig.from_pretrained(llama)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    expected = tuple(config.sliding_window if kind == "sliding_attention" else None for kind in kinds)
    assert load_arch(llama).windows == expected


def test_text_settings_of_a_nested_config_count(llama: Path, edit_json) -> None:
    edit_json(llama / "config.json", model_type="gemma3", text_config={"num_hidden_layers": 2})
    assert load_arch(llama).layers == 2


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size"])
def test_a_size_that_makes_no_sense_is_refused(key: str, llama: Path, edit_json) -> None:
    edit_json(llama / "config.json", **{key: 0})
    with pytest.raises(ModelError, match=key):
        load_arch(llama)
