"""Frozen weights in 4 bits: groups of weights that share a scale and an offset, MLX's affine form.

A model can come so (its config.json then says how it was packed) or be packed when it is loaded. LoRA trains
on top of either; gradients go through the layer and not into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import mlx.core as mx
from mlx import nn

from tunewright.errors import ModelError

GROUP_SIZE = 64
BITS = 4
# Bytes a weight takes: half of one, and a 16-bit scale and offset for each group.
PACKED_BYTES = BITS / 8 + 4 / GROUP_SIZE


def quantize_linears(module: nn.Module) -> None:
    """Pack the linear layers, in place. Embedding and head stay, and layers whose inputs are no whole number
    of groups."""

    def to_pack(name: str, child: nn.Module) -> bool:
        return isinstance(child, nn.Linear) and name != "lm_head" and child.weight.shape[1] % GROUP_SIZE == 0

    nn.quantize(module, group_size=GROUP_SIZE, bits=BITS, class_predicate=to_pack)


def prepare_packed(module: nn.Module, packed: Mapping[str, Any], weights: Mapping[str, mx.array]) -> None:
    """Turn the layers that `weights` holds packed into quantised ones, before those are loaded.

    packed: `quantization` of config.json: group_size and bits, and the same for single layers by name.
    Raises ModelError for another form than affine.
    """

    def to_pack(name: str, child: nn.Module) -> bool | dict[str, Any]:
        if f"{name}.scales" not in weights or not hasattr(child, "to_quantized"):
            return False
        own = packed.get(name)
        return cast("dict[str, Any]", own) if isinstance(own, dict) else True

    try:
        nn.quantize(module, group_size=packed["group_size"], bits=packed["bits"], class_predicate=to_pack)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"the packed weights cannot be read: {type(error).__name__}: {error}"[:300],
            where="config.json: quantization",
            expected="affine groups as mlx-lm writes them",
            code="model.quantized",
        ) from error


def count_parameters(module: nn.Module) -> int:
    """Numbers in the model, packed ones counted one by one and scales not at all."""
    total = 0
    for _, child in module.named_modules():
        bits = getattr(child, "bits", None)
        for name, values in cast("dict[str, Any]", child).items():
            if not isinstance(values, mx.array) or name.startswith("_"):
                continue
            if bits is None:
                total += values.size
            elif name == "weight":
                total += values.size * 32 // bits
            elif name == "bias":
                total += values.size
    return total
