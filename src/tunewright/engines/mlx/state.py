"""Everything resume needs, as plain arrays and JSON: trained weights, moments, random key.

Array names: `weight/<parameter>`, `first/<parameter>`, `second/<parameter>`, `rng/mlx`. All but the last are
those of the torch engine, in the same layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from tunewright.engines.mlx.arrays import dtype_name, from_array, to_array, to_number
from tunewright.engines.mlx.optimizer import AdamW
from tunewright.engines.mlx.precision import LossScale
from tunewright.engines.mlx.rng import RandomKey
from tunewright.engines.saved_state import list_first, mismatch, read_number
from tunewright.types import Array, EngineState, JsonValue

_KEY = "rng/mlx"


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an engine that change while it trains."""

    optimizer: AdamW
    random: RandomKey
    scale: LossScale | None


def snapshot(parts: Parts) -> EngineState:
    """Copy the state to host memory. Waits for the device."""
    arrays = {name: to_array(values) for name, values in _arrays(parts).items()}
    values: dict[str, JsonValue] = {"optimizer_steps": int(to_number(parts.optimizer.count))}
    if parts.scale is not None:
        values["loss_scale"] = to_number(parts.scale.scale)
        values["loss_scale_clean_steps"] = int(to_number(parts.scale.clean_steps))
    return EngineState(arrays, values)


def restore(parts: Parts, state: EngineState) -> None:
    """Continue from `state`. Raises CheckpointError, with nothing changed, when it does not fit."""
    _check_fits(_arrays(parts), state)
    steps = read_number(state, "optimizer_steps")
    scale = None
    if parts.scale is not None:
        scale = read_number(state, "loss_scale"), read_number(state, "loss_scale_clean_steps")
    optimizer = parts.optimizer
    for kind, held in _kinds(optimizer).items():
        for name in held:
            held[name] = from_array(state.arrays[f"{kind}/{name}"])
    optimizer.discard()
    optimizer.count = mx.array(steps, mx.float32)
    parts.random.key = from_array(state.arrays[_KEY])
    if parts.scale is not None and scale is not None:
        parts.scale.scale = mx.array(scale[0], mx.float32)
        parts.scale.clean_steps = mx.array(int(scale[1]), mx.int32)


def _kinds(optimizer: AdamW) -> dict[str, dict[str, mx.array]]:
    return {"weight": optimizer.weights, "first": optimizer.first, "second": optimizer.second}


def _arrays(parts: Parts) -> dict[str, mx.array]:
    arrays = {
        f"{kind}/{name}": values
        for kind, held in _kinds(parts.optimizer).items()
        for name, values in held.items()
    }
    return {**arrays, _KEY: parts.random.key}


def _check_fits(required: Mapping[str, mx.array], state: EngineState) -> None:
    missing = [name for name in required if name not in state.arrays]
    surplus = [name for name in state.arrays if name not in required]
    if missing or surplus:
        got = "; ".join(
            f"{what} {list_first(names)}"
            for what, names in (("missing", missing), ("unknown", surplus))
            if names
        )
        raise mismatch("the saved state is of another model, adapter or engine", got)
    wrong = [
        f"{name} {saved.dtype}{list(saved.shape)} for {dtype_name(values.dtype)}{list(values.shape)}"
        for name, values in required.items()
        if not _same(saved := state.arrays[name], values)
    ]
    if wrong:
        raise mismatch("saved arrays have another shape or type", list_first(wrong))


def _same(array: Array, values: mx.array) -> bool:
    return tuple(array.shape) == tuple(values.shape) and array.dtype == dtype_name(values.dtype)
