from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tunewright.arrays import read_arrays
from tunewright.config.schema import AdapterConfig
from tunewright.models.adapter_files import read_adapter, write_adapter
from tunewright.models.mlx_adapter import MLX_ARRAYS_FILE, find_obstacle, mlx_settings, to_mlx_arrays
from tunewright.types import Array

LLAMA = {"model_type": "llama", "tie_word_embeddings": False}
MODULE = "model.layers.0.self_attn.q_proj"


def _array(values: np.ndarray, dtype: str = "F32") -> Array:
    return Array(dtype, values.shape, np.ascontiguousarray(values).tobytes())


def _pair() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        f"{MODULE}.lora_A.weight": draw.normal(size=(4, 6)).astype(np.float32),
        f"{MODULE}.lora_B.weight": draw.normal(size=(8, 4)).astype(np.float32),
    }


@pytest.mark.parametrize(("dtype", "item"), [("F32", np.float32), ("BF16", np.uint16)])
def test_arrays_are_transposed_item_by_item(dtype: str, item: type) -> None:
    values = np.arange(12).reshape(3, 4).astype(item)
    arrays = to_mlx_arrays({f"{MODULE}.lora_A.weight": _array(values, dtype)})
    (flipped,) = arrays.values()
    assert list(arrays) == [f"{MODULE}.lora_a"]
    assert (flipped.dtype, flipped.shape) == (dtype, (4, 3))
    np.testing.assert_array_equal(np.frombuffer(flipped.data, item).reshape(4, 3), values.T)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 4.0), (True, 8.0)])
def test_the_scale_is_a_factor_there(rslora: bool, scale: float) -> None:
    config = AdapterConfig(rank=4, alpha=16, dropout=0.25, rslora=rslora)
    settings = mlx_settings(config, ["b", "a"])
    assert settings["lora_parameters"] == {"rank": 4, "scale": scale, "dropout": 0.25, "keys": ["a", "b"]}


def test_a_folder_holds_both_formats_of_the_same_values(tmp_path: Path) -> None:
    pair = _pair()
    arrays = {name: _array(values) for name, values in pair.items()}
    config = AdapterConfig(rank=4, targets=("q_proj",))
    write_adapter(tmp_path, arrays, config, base_name="b", targets=[MODULE], for_mlx=True)
    assert read_adapter(tmp_path).arrays.keys() == arrays.keys()
    found = read_arrays(tmp_path / MLX_ARRAYS_FILE)
    for name, values in zip((f"{MODULE}.lora_a", f"{MODULE}.lora_b"), pair.values(), strict=True):
        np.testing.assert_array_equal(
            np.frombuffer(found[name].data, np.float32).reshape(found[name].shape), values.T
        )


def test_without_mlx_the_folder_holds_none_of_it(tmp_path: Path) -> None:
    arrays = {name: _array(values) for name, values in _pair().items()}
    write_adapter(
        tmp_path, arrays, AdapterConfig(rank=4, targets=("q_proj",)), base_name="b", targets=[MODULE]
    )
    assert not (tmp_path / MLX_ARRAYS_FILE).exists()
    assert "lora_parameters" not in json.loads((tmp_path / "adapter_config.json").read_text())


@pytest.mark.parametrize(
    ("settings", "targets", "model", "word"),
    [
        ({"bias": "all"}, [MODULE], {}, "bias"),
        ({"modules_to_save": ("lm_head",)}, [MODULE], {}, "modules_to_save"),
        ({}, [MODULE, "lm_head"], {"tie_word_embeddings": True}, "lm_head"),
        ({}, [MODULE], {"model_type": "mixtral"}, "mixtral"),
    ],
)
def test_what_mlx_lm_cannot_hold_is_named(settings, targets, model, word) -> None:
    assert word in (find_obstacle(AdapterConfig(**settings), targets, {**LLAMA, **model}) or "")


def test_what_it_can_hold_has_no_obstacle() -> None:
    assert find_obstacle(AdapterConfig(rslora=True), [MODULE, "lm_head"], LLAMA) is None
