"""The key check of adapters, both ways: every array has a reason in the settings, every setting an array."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tunewright.config.schema import AdapterConfig
from tunewright.errors import ModelError
from tunewright.models.lora import ALL_LINEAR, is_named
from tunewright.types import Array

A_SUFFIX, B_SUFFIX = ".lora_A.weight", ".lora_B.weight"
FLOAT_TYPES = ("F32", "F16", "BF16")


def check_arrays(
    arrays: Mapping[str, Array], config: AdapterConfig, *, targets: Sequence[str] | None, where: str
) -> None:
    """Raises ModelError (code model.adapter-keys) naming the first array or setting without its partner.

    targets: the modules that must have LoRA; None when only the settings are known, as when reading.
    """
    adapted = _check_pairs(arrays, config.rank, where)
    if targets is not None and set(targets) != adapted:
        name = sorted(set(targets) ^ adapted)[0]
        raise _fault("the arrays do not belong to the adapted modules", where, got=name)
    _check_targets(adapted, config, where)
    _check_others(arrays, adapted, config, where)


def module_of(name: str) -> str:
    """The module whose LoRA an array is part of."""
    return name.removesuffix(A_SUFFIX).removesuffix(B_SUFFIX)


def _check_pairs(arrays: Mapping[str, Array], rank: int, where: str) -> set[str]:
    """Each A has its B, [rank, in] and [out, rank]; returns the names of the adapted modules."""
    adapted = {module_of(name) for name in arrays if name.endswith((A_SUFFIX, B_SUFFIX))}
    if not adapted:
        raise _fault("there is no LoRA array", where, expected=f"names that end in {A_SUFFIX}")
    for module in sorted(adapted):
        for suffix, axis in ((A_SUFFIX, 0), (B_SUFFIX, 1)):
            array = arrays.get(module + suffix)
            if array is None:
                raise _fault("an array is missing", where, expected=module + suffix)
            if len(array.shape) != 2 or array.shape[axis] != rank:
                raise _fault(
                    f"{module + suffix} does not have rank {rank} on axis {axis}",
                    where,
                    got=list(array.shape),
                )
    for name, array in arrays.items():
        if array.dtype not in FLOAT_TYPES:
            raise _fault(
                f"{name} has an unsupported type", where, got=array.dtype, expected=", ".join(FLOAT_TYPES)
            )
    return adapted


def _check_targets(adapted: set[str], config: AdapterConfig, where: str) -> None:
    wanted = config.targets
    if wanted == ALL_LINEAR:
        return
    if isinstance(wanted, str):
        stray = [name for name in sorted(adapted) if not re.fullmatch(wanted, name)]
    else:
        stray = [name for name in sorted(adapted) if not any(is_named(name, target) for target in wanted)]
        for target in wanted:
            # A module saved in full gets no LoRA, also when it is a target.
            if not any(is_named(name, target) for name in (*adapted, *config.modules_to_save)):
                raise _fault("a target module has no arrays", where, got=target)
    if stray:
        raise _fault("an adapted module is not among the targets", where, got=stray[0])


def _check_others(arrays: Mapping[str, Array], adapted: set[str], config: AdapterConfig, where: str) -> None:
    """Arrays beside A and B are biases that `bias` allows, or parts of a module in modules_to_save."""
    others = [name for name in sorted(arrays) if not name.endswith((A_SUFFIX, B_SUFFIX))]
    for name in others:
        bias = name.rpartition(".")[2] == "bias"
        of_adapted = name.removesuffix(".base_layer.bias") in adapted
        allowed = bias and (config.bias == "all" or (config.bias == "lora_only" and of_adapted))
        if not allowed and not any(_lies_in(name, module) for module in config.modules_to_save):
            raise _fault("an array has no reason in the settings", where, got=name)
    for module in config.modules_to_save:
        if not any(_lies_in(name, module) for name in others):
            raise _fault("a module of modules_to_save has no arrays", where, got=module)


def _lies_in(name: str, module: str) -> bool:
    return f".{module}." in f".{name}"


def _fault(what: str, where: str, *, got: object = None, expected: str | None = None) -> ModelError:
    return ModelError(what, where=where, got=got, expected=expected, code="model.adapter-keys")
