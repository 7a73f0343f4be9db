"""What mlx-lm reads in an adapter folder, beside what PEFT reads: three settings and `adapters.safetensors`.

The arrays are those of the PEFT file under mlx-lm's names, transposed: A is [in, rank], B is [rank, out].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tunewright.arrays import DTYPE_BITS
from tunewright.config.schema import AdapterConfig
from tunewright.models.adapter_keys import A_SUFFIX, B_SUFFIX
from tunewright.types import Array, JsonValue

MLX_ARRAYS_FILE = "adapters.safetensors"
MLX_SETTINGS = ("fine_tune_type", "num_layers", "lora_parameters")
"""Keys of adapter_config.json that are mlx-lm's own."""

SAME_NAMES = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3")
"""Model types whose modules have the same names in transformers and mlx-lm."""

_SUFFIXES = {A_SUFFIX: ".lora_a", B_SUFFIX: ".lora_b"}


def find_obstacle(
    config: AdapterConfig, targets: Sequence[str], model_config: Mapping[str, object]
) -> str | None:
    """Why mlx-lm cannot hold such an adapter; None when it can. model_config: the base's config.json."""
    model_type = model_config.get("model_type")
    if model_type not in SAME_NAMES:
        return f"the modules of {model_type} may have other names in mlx-lm"
    if config.bias != "none":
        return f"mlx-lm has no adapter.bias: {config.bias}"
    if config.modules_to_save:
        return "mlx-lm has no adapter.modules_to_save"
    # A tied head is a call of the embedding there, and no module of its own.
    if model_config.get("tie_word_embeddings") and "lm_head" in targets:
        return "mlx-lm has no lm_head of its own in a model that ties it"
    return None


def mlx_settings(config: AdapterConfig, targets: Sequence[str]) -> dict[str, JsonValue]:
    """The keys of MLX_SETTINGS. Modules go by their full names, which fit whatever set of them is adapted."""
    parameters: dict[str, JsonValue] = {
        "rank": config.rank,
        "scale": config.alpha / (math.sqrt(config.rank) if config.rslora else config.rank),
        "dropout": config.dropout,
        "keys": list[JsonValue](sorted(targets)),
    }
    # -1 is all layers.
    return {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": parameters}


def to_mlx_arrays(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """LoRA arrays under mlx-lm's names and in its layout."""
    return {_renamed(name): _transposed(array) for name, array in arrays.items()}


def _renamed(name: str) -> str:
    for ours, theirs in _SUFFIXES.items():
        if name.endswith(ours):
            return name.removesuffix(ours) + theirs
    raise ValueError(f"{name} is no LoRA array")


def _transposed(array: Array) -> Array:
    import numpy as np

    # By bytes: NumPy has no bfloat16, and a transpose moves whole items only.
    item = np.dtype(f"u{DTYPE_BITS[array.dtype] // 8}")
    matrix = np.frombuffer(array.data, dtype=item).reshape(array.shape)
    flipped = np.ascontiguousarray(matrix.T)
    return Array(array.dtype, (array.shape[1], array.shape[0]), flipped.reshape(-1).view(np.uint8).data)
