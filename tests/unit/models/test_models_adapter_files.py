"""Files alone, without an engine; tests/numerics proves that PEFT computes the same with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tunewright.arrays import write_arrays
from tunewright.config.schema import AdapterConfig
from tunewright.errors import ModelError
from tunewright.models.adapter_files import is_adapter_folder, read_adapter, read_base_name, write_adapter
from tunewright.types import Array

Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.0.mlp.up_proj"


def _array(*shape: int, dtype: str = "F32") -> Array:
    return Array(dtype, shape, np.ones(shape, np.float32).tobytes())


def _pair(module: str, rank: int = 2) -> dict[str, Array]:
    return {
        f"{module}.lora_A.weight": _array(rank, 3),
        f"{module}.lora_B.weight": _array(5, rank),
    }


def _config(**changes: Any) -> AdapterConfig:
    return AdapterConfig(**{"rank": 2, "alpha": 4, "targets": ("q_proj",), **changes})


def _written(
    folder: Path, arrays: dict[str, Array], config: AdapterConfig, targets: list[str]
) -> dict[str, Any]:
    write_adapter(folder, arrays, config, base_name="org/base", targets=targets)
    return json.loads((folder / "adapter_config.json").read_text())


def _refused(folder: Path, code: str) -> str:
    with pytest.raises(ModelError) as caught:
        read_adapter(folder)
    assert caught.value.code == code
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "extra"),
    [
        ({}, {}),
        ({"alpha": 5.5, "dropout": 0.1, "rslora": True}, {}),
        ({"bias": "lora_only"}, {f"{Q}.base_layer.bias": _array(5)}),
        ({"bias": "all"}, {"model.norm.bias": _array(3), f"{Q}.base_layer.bias": _array(5)}),
        (
            {"modules_to_save": ("lm_head", "model.norm")},
            {"lm_head.weight": _array(7, 3), "model.norm.weight": _array(3)},
        ),
        ({"targets": r"model\..*q_proj"}, {}),
    ],
)
def test_reading_gives_what_was_written(config: dict, extra: dict[str, Array], tmp_path: Path) -> None:
    arrays = {**_pair(Q), **extra}
    _written(tmp_path, arrays, _config(**config), [Q])
    found = read_adapter(tmp_path)
    assert found.config == _config(**config)
    assert found.base_name == read_base_name(tmp_path) == "org/base"
    assert is_adapter_folder(tmp_path)
    assert {name: bytes(array.data) for name, array in found.arrays.items()} == {
        name: array.data for name, array in arrays.items()
    }


def test_peft_knows_every_key_we_write(tmp_path: Path) -> None:
    """Keys of a newer PEFT than ours are ignored by an older one with a warning; ours must cause none."""
    settings = _written(tmp_path, _pair(Q), _config(), [Q])
    assert set(settings) - {"peft_type"} <= set(LoraConfig(task_type="CAUSAL_LM").to_dict()) | {
        "auto_mapping"
    }
    built = LoraConfig.from_pretrained(str(tmp_path))
    assert (built.r, built.lora_alpha, built.target_modules) == (2, 4, {"q_proj"})


def test_all_linear_is_written_as_last_parts(tmp_path: Path) -> None:
    settings = _written(tmp_path, {**_pair(Q), **_pair(UP)}, _config(targets="all-linear"), [Q, UP])
    assert settings["target_modules"] == ["q_proj", "up_proj"]


def test_saved_modules_are_written_by_full_name(tmp_path: Path) -> None:
    """PEFT matches mere endings: `norm` would be `input_layernorm` as well."""
    config = _config(targets="all-linear", modules_to_save=("norm",))
    settings = _written(tmp_path, {**_pair(Q), "model.norm.weight": _array(3)}, config, [Q])
    assert settings["modules_to_save"] == ["model.norm"]
    assert settings["target_modules"] == [Q]


def test_a_target_that_is_saved_in_full_needs_no_lora(tmp_path: Path) -> None:
    config = _config(targets=("q_proj", "lm_head"), modules_to_save=("lm_head",))
    _written(tmp_path, {**_pair(Q), "lm_head.weight": _array(7, 3)}, config, [Q])
    assert read_adapter(tmp_path).config == config


@pytest.mark.parametrize(
    ("arrays", "config", "what"),
    [
        ({}, {}, "no LoRA array"),
        ({f"{Q}.lora_A.weight": _array(2, 3)}, {}, "missing"),
        ({**_pair(Q, rank=3)}, {}, "rank 2"),
        ({**_pair(Q), f"{Q}.lora_A.weight": _array(2)}, {}, "rank 2"),
        ({**_pair(Q), f"{Q}.lora_A.weight": Array("I32", (2, 3), bytes(24))}, {}, "type"),
        ({**_pair(Q), **_pair(UP)}, {}, "not among the targets"),
        ({**_pair(Q), **_pair(UP)}, {"targets": ".*q_proj"}, "not among the targets"),
        ({**_pair(Q)}, {"targets": ("q_proj", "v_proj")}, "target module has no arrays"),
        ({**_pair(Q), f"{Q}.base_layer.bias": _array(5)}, {}, "no reason"),
        ({**_pair(Q), "model.norm.bias": _array(5)}, {"bias": "lora_only"}, "no reason"),
        ({**_pair(Q), "lm_head.weight": _array(7, 3)}, {}, "no reason"),
        ({**_pair(Q)}, {"modules_to_save": ("lm_head",)}, "modules_to_save has no arrays"),
    ],
)
def test_keys_are_checked_both_ways(
    arrays: dict[str, Array], config: dict, what: str, tmp_path: Path
) -> None:
    targets = sorted({name.split(".lora_")[0] for name in arrays if ".lora_" in name})
    with pytest.raises(ModelError, match=what) as caught:
        _written(tmp_path, arrays, _config(**config), targets)
    assert caught.value.code == "model.adapter-keys"
    assert not list(tmp_path.iterdir())
    settings = _written(tmp_path, _pair(Q), _config(), [Q])
    new = {"rank": "r", "targets": "target_modules"}
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({**settings, **{new.get(key, key): value for key, value in config.items()}})
    )
    write_arrays(
        tmp_path / "adapter_model.safetensors", {f"base_model.model.{n}": a for n, a in arrays.items()}
    )
    assert what in _refused(tmp_path, "model.adapter-keys")


def test_arrays_of_other_modules_than_the_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=UP):
        _written(tmp_path, _pair(Q), _config(), [Q, UP])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("use_dora", True),
        ("rank_pattern", {"q_proj": 4}),
        ("alpha_pattern", {"q_proj": 4}),
        ("layers_to_transform", [0]),
        ("init_lora_weights", "pissa"),
        ("trainable_token_indices", [1]),
        ("some_new_variant", True),
    ],
)
def test_other_kinds_of_adapter_are_refused_by_name(key: str, value: object, tmp_path: Path) -> None:
    settings = _written(tmp_path, _pair(Q), _config(), [Q])
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, key: value}))
    assert key in _refused(tmp_path, "model.adapter-kind")


@pytest.mark.parametrize("text", ["{", "[]", '{"peft_type": "LORA"}', '{"peft_type": "LORA", "r": 2}'])
def test_broken_settings_are_refused(text: str, tmp_path: Path) -> None:
    _written(tmp_path, _pair(Q), _config(), [Q])
    (tmp_path / "adapter_config.json").write_text(text)
    _refused(tmp_path, "model.bad-adapter")


@pytest.mark.parametrize(("key", "value"), [("r", 0), ("r", "x"), ("bias", "some"), ("target_modules", 3)])
def test_settings_out_of_range_are_refused(key: str, value: object, tmp_path: Path) -> None:
    settings = _written(tmp_path, _pair(Q), _config(), [Q])
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, key: value}))
    _refused(tmp_path, "model.bad-adapter")


def test_missing_and_unsafe_files_are_refused(tmp_path: Path) -> None:
    assert "exports/final" in _refused(tmp_path, "model.no-adapter")
    _written(tmp_path, _pair(Q), _config(), [Q])
    arrays = tmp_path / "adapter_model.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1])
    _refused(tmp_path, "model.bad-arrays")
    arrays.unlink()
    _refused(tmp_path, "model.no-adapter")
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    _refused(tmp_path, "model.pickle")


def test_foreign_names_are_refused(tmp_path: Path) -> None:
    _written(tmp_path, _pair(Q), _config(), [Q])
    write_arrays(tmp_path / "adapter_model.safetensors", _pair(Q))
    assert "base_model.model." in _refused(tmp_path, "model.adapter-keys")


def test_an_adapter_without_base_is_told(tmp_path: Path) -> None:
    settings = _written(tmp_path, _pair(Q), _config(), [Q])
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": ""}))
    assert read_adapter(tmp_path).base_name is None
    with pytest.raises(ModelError, match="base"):
        read_base_name(tmp_path)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "v_proj"], "bias": "all"},
        {"target_modules": ["q_proj"], "bias": "lora_only", "modules_to_save": ["lm_head"]},
        {"target_modules": r".*layers\.1\..*proj", "use_rslora": True, "init_lora_weights": "gaussian"},
    ],
)
def test_adapters_of_peft_are_read(settings: dict, family: str, family_folder, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(family_folder(family))
    model = get_peft_model(base, LoraConfig(r=3, lora_alpha=6, task_type="CAUSAL_LM", **settings))
    model.save_pretrained(tmp_path)
    found = read_adapter(tmp_path)
    trained = {
        name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", "")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert set(found.arrays) == trained
    assert (found.config.rank, found.config.alpha) == (3, 6)
    assert found.config.rslora == settings.get("use_rslora", False)
