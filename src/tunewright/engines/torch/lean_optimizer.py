"""AdamW with moments that take less memory of the device: in 8 bits, or in memory that CUDA pages.

The updates are those of bitsandbytes. They are told on the host whether to happen and how far to clip, so a
step waits for the device once; plain AdamW does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from tunewright.engines.protocol import EngineSpec
from tunewright.engines.torch.bitsandbytes_import import INSTALL_HINT, functional, is_installed
from tunewright.engines.torch.optimizer import AdamW, Slot
from tunewright.errors import EngineError
from tunewright.models.moments import BLOCK_8BIT, SMALLEST_8BIT, SMALLEST_PAGED


def build_optimizer(
    spec: EngineSpec, named: Sequence[tuple[str, nn.Parameter]], device: torch.device
) -> AdamW:
    """The optimizer that `spec` names, over parameters by name. Raises EngineError where it does not run."""
    kind: Any = {"adamw": AdamW, "adamw_8bit": AdamW8bit, "paged_adamw": PagedAdamW}[spec.optimizer]
    if kind is not AdamW:
        _check(spec, device)
    return kind(
        named, betas=spec.betas, epsilon=spec.epsilon, weight_decay=spec.weight_decay,
        max_norm=spec.max_grad_norm, device=device,
    )  # fmt: skip


def _check(spec: EngineSpec, device: torch.device) -> None:
    if device.type == "cuda" and is_installed():
        return
    here = f"{spec.optimizer} on {device.type}" if device.type != "cuda" else "bitsandbytes is not installed"
    raise EngineError(
        f"{spec.optimizer} needs CUDA and bitsandbytes",
        where="train.optimizer",
        got=here,
        expected="adamw",
        hint=INSTALL_HINT if device.type == "cuda" else "set train.optimizer: adamw",
        code="engine.unsupported-option",
    )


class _BitsandbytesAdamW(AdamW):
    """Plain AdamW's decisions; the update itself is one call a parameter."""

    def _update(
        self, group: list[Slot], lr: float, decay: float, factor: torch.Tensor, skipped: torch.Tensor
    ) -> None:
        count, inverse, skip = torch.stack([self.count, 1 / factor, skipped.float()]).tolist()
        if not skip:
            for slot in group:
                self._update_one(slot, lr, decay, round(count), inverse)

    def _update_one(self, slot: Slot, lr: float, decay: float, count: int, inverse: float) -> None:
        functional().optimizer_update_32bit(
            "adam", slot.parameter.grad, slot.parameter, slot.first, self.betas[0], self.epsilon, count, lr,
            state2=slot.second, beta2=self.betas[1], weight_decay=decay, gnorm_scale=inverse,
        )  # fmt: skip


class PagedAdamW(_BitsandbytesAdamW):
    """fp32 moments in memory that moves between device and host as it is needed. The numbers are AdamW's."""

    def _make_slot(self, parameter: nn.Parameter) -> Slot:
        if parameter.device.type != "cuda" or parameter.numel() < SMALLEST_PAGED:
            return super()._make_slot(parameter)
        first, second = (self._paged_zeros(parameter) for _ in range(2))
        return Slot(parameter, first, second, decays=parameter.ndim >= 2)

    def _paged_zeros(self, parameter: nn.Parameter) -> torch.Tensor:
        zeros = functional().get_paged(*parameter.shape, dtype=torch.float32, device=parameter.device)
        functional().fill(zeros, 0)
        return zeros

    def _update(
        self, group: list[Slot], lr: float, decay: float, factor: torch.Tensor, skipped: torch.Tensor
    ) -> None:
        paged = [t for slot in group for t in (slot.first, slot.second) if hasattr(t, "is_paged")]
        for moment in paged:
            functional().prefetch_tensor(moment)
        super()._update(group, lr, decay, factor, skipped)
        if paged:
            # To torch they are arrays of the host, and it would read them before the update is done.
            torch.cuda.synchronize()


@dataclass(frozen=True, slots=True)
class _Slot8bit(Slot):
    """Moments as codes (uint8, the parameter's shape), with an fp32 scale for 256 of them."""

    first_scale: torch.Tensor
    second_scale: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        scales = {"first_scale": self.first_scale, "second_scale": self.second_scale}
        # Named apart: slots=True makes a new class, which a bare super() does not know.
        return {**Slot.tensors(self), **scales}


class AdamW8bit(_BitsandbytesAdamW):
    """Moments in 8 bits, in blocks of 256; the numbers are near those of AdamW, not equal."""

    def _make_slot(self, parameter: nn.Parameter) -> Slot:
        if parameter.numel() < SMALLEST_8BIT:
            return super()._make_slot(parameter)
        blocks = -(-parameter.numel() // BLOCK_8BIT)
        first, second = (torch.zeros_like(parameter, dtype=torch.uint8) for _ in range(2))
        scales = [torch.zeros(blocks, dtype=torch.float32, device=parameter.device) for _ in range(2)]
        return _Slot8bit(parameter, first, second, parameter.ndim >= 2, scales[0], scales[1])

    def _update_one(self, slot: Slot, lr: float, decay: float, count: int, inverse: float) -> None:
        if not isinstance(slot, _Slot8bit):
            super()._update_one(slot, lr, decay, count, inverse)
            return
        signed, unsigned = _tables(slot.parameter.device)
        functional().optimizer_update_8bit_blockwise(
            "adam", slot.parameter.grad, slot.parameter, slot.first, slot.second, *self.betas, 0.0, 0.0,
            self.epsilon, count, lr, signed, unsigned, slot.first_scale, slot.second_scale, decay, inverse,
        )  # fmt: skip


@cache
def _tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """What the codes of first and second moments stand for."""
    signed, unsigned = (functional().create_dynamic_map(signed=sign).to(device) for sign in (True, False))
    return signed, unsigned
