"""Everything resume needs, as plain arrays and JSON: trained weights, moments, random state, changed buffers.

Array names: `weight/<parameter>`, `first/<parameter>`, `second/<parameter>`, `buffer/<name>`, `rng/<device>`,
and `first_scale/<parameter>`, `second_scale/<parameter>` where moments are in 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from tunewright.engines.saved_state import list_first, mismatch, read_number
from tunewright.engines.torch.arrays import dtype_name, to_array, to_tensor
from tunewright.engines.torch.optimizer import AdamW
from tunewright.engines.torch.precision import LossScale
from tunewright.engines.torch.rng import RandomState
from tunewright.types import Array, EngineState, JsonValue


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an engine that change while it trains. start_buffers: their first values."""

    model: nn.Module
    optimizer: AdamW
    random: RandomState
    scale: LossScale | None
    start_buffers: Mapping[str, torch.Tensor]


def copy_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's buffers as they are now (small: rotary frequencies and embedding scales)."""
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def snapshot(parts: Parts) -> EngineState:
    """Copy the state to host memory. Waits for the device."""
    arrays = {name: to_array(tensor) for name, tensor in _slots(parts.optimizer).items()}
    for name, buffer in parts.model.named_buffers():
        if not torch.equal(buffer, parts.start_buffers[name]):
            arrays[f"buffer/{name}"] = to_array(buffer)
    for name, state in parts.random.states.items():
        arrays[f"rng/{name}"] = to_array(state)
    values: dict[str, JsonValue] = {
        "optimizer_steps": int(parts.optimizer.count.item()),
        "threads": torch.get_num_threads(),
    }
    if parts.scale is not None:
        values["loss_scale"] = float(parts.scale.scale.item())
        values["loss_scale_clean_steps"] = int(parts.scale.clean_steps.item())
    return EngineState(arrays, values)


@torch.no_grad()
def restore(parts: Parts, state: EngineState) -> None:
    """Continue from `state`. Raises CheckpointError, with nothing changed, when it does not fit."""
    slots = _slots(parts.optimizer)
    buffers = {f"buffer/{name}": buffer for name, buffer in parts.model.named_buffers()}
    random = {f"rng/{name}": tensor for name, tensor in parts.random.states.items()}
    _check_fits({**slots, **random}, buffers, state)
    steps = read_number(state, "optimizer_steps")
    scale = None if parts.scale is None else _scale_values(state)
    for name, tensor in slots.items():
        tensor.copy_(to_tensor(state.arrays[name]))
    for name, buffer in buffers.items():
        kept = state.arrays.get(name)
        start = parts.start_buffers[name.removeprefix("buffer/")]
        buffer.copy_(start if kept is None else to_tensor(kept))
    parts.random.states = {name.removeprefix("rng/"): to_tensor(state.arrays[name]) for name in random}
    parts.optimizer.discard()
    parts.optimizer.count.fill_(steps)
    if parts.scale is not None and scale is not None:
        parts.scale.scale.fill_(scale[0])
        parts.scale.clean_steps.fill_(scale[1])


def _slots(optimizer: AdamW) -> dict[str, torch.Tensor]:
    return {
        f"{kind}/{name}": tensor
        for name, slot in optimizer.slots.items()
        for kind, tensor in slot.tensors().items()
    }


def _check_fits(
    required: Mapping[str, torch.Tensor], optional: Mapping[str, torch.Tensor], state: EngineState
) -> None:
    missing = [name for name in required if name not in state.arrays]
    surplus = [name for name in state.arrays if name not in required and name not in optional]
    if missing or surplus:
        got = "; ".join(
            f"{what} {list_first(names)}"
            for what, names in (("missing", missing), ("unknown", surplus))
            if names
        )
        raise mismatch("the saved state is of another model, adapter or device", got)
    wrong = [
        f"{name} {saved.dtype}{list(saved.shape)} for {dtype_name(tensor.dtype)}{list(tensor.shape)}"
        for name, tensor in {**required, **optional}.items()
        if (saved := state.arrays.get(name)) is not None and not _same(saved, tensor)
    ]
    if wrong:
        raise mismatch("saved arrays have another shape or type", list_first(wrong))


def _same(array: Array, tensor: torch.Tensor) -> bool:
    return array.shape == tuple(tensor.shape) and array.dtype == dtype_name(tensor.dtype)


def _scale_values(state: EngineState) -> tuple[float, float]:
    return read_number(state, "loss_scale"), read_number(state, "loss_scale_clean_steps")
