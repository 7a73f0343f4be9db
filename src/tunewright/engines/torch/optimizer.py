"""AdamW in fp32 with clipping and skipping decided on the device.

A step that must not happen (non-finite norm, or one above the caller's threshold) leaves weights, moments
and step count bit for bit as they were, without the host waiting to learn of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from tunewright.engines.torch.precision import LossScale

# The fused kernel honours `found_inf` there; elsewhere the select is written out.
_FUSED = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """Device scalars of one step: norm before clipping in true units, whether the step was left out, and
    whether that lowered the loss scale."""

    norm: torch.Tensor
    skipped: torch.Tensor
    rescaled: torch.Tensor


@dataclass(frozen=True, slots=True)
class Slot:
    """A parameter and its moments."""

    parameter: nn.Parameter
    first: torch.Tensor
    second: torch.Tensor
    decays: bool

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a step changes, by the name it has in a checkpoint."""
        return {"weight": self.parameter, "first": self.first, "second": self.second}


class AdamW:
    """Decoupled weight decay on matrices; none on norms and biases."""

    def __init__(
        self, named: Sequence[tuple[str, nn.Parameter]], *, betas: tuple[float, float], epsilon: float,
        weight_decay: float, max_norm: float, device: torch.device,
    ) -> None:  # fmt: skip
        self.betas, self.epsilon, self.weight_decay, self.max_norm = betas, epsilon, weight_decay, max_norm
        self.slots = {name: self._make_slot(parameter) for name, parameter in named}
        self.count = torch.zeros((), dtype=torch.float32, device=device)

    @torch.no_grad()
    def step(self, *, lr: float, skip_above: float | None, scale: LossScale | None) -> StepOutcome:
        """Apply the gradients that the parameters hold, then forget them.

        Gradients carry the factor of `scale`, which is updated. A parameter without gradient is left alone.
        """
        slots = [slot for slot in self.slots.values() if slot.parameter.grad is not None]
        factor = self.count.new_ones(()) if scale is None else scale.scale.clone()
        norm = self._norm(slots) / factor
        finite = torch.isfinite(norm)
        skipped = ~finite if skip_above is None else ~(finite & (norm <= skip_above))
        rescaled = torch.zeros_like(finite) if scale is None else scale.update(~finite)
        if self.max_norm > 0:
            factor = factor / torch.clamp(self.max_norm / (norm + 1e-6), max=1.0)
        self.count.add_((~skipped).float())
        for decays in (True, False):
            group = [slot for slot in slots if slot.decays is decays]
            if group:
                self._update(group, lr, self.weight_decay if decays else 0.0, factor, skipped)
        self.discard()
        return StepOutcome(norm, skipped, rescaled)

    def _make_slot(self, parameter: nn.Parameter) -> Slot:
        first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return Slot(parameter, first, second, decays=parameter.ndim >= 2)

    def discard(self) -> None:
        """Drop all gradients."""
        for slot in self.slots.values():
            slot.parameter.grad = None

    def _norm(self, slots: list[Slot]) -> torch.Tensor:
        if not slots:
            return torch.zeros_like(self.count)
        return nn.utils.get_total_norm(
            [slot.parameter.grad for slot in slots if slot.parameter.grad is not None]
        )

    def _update(
        self, group: list[Slot], lr: float, decay: float, factor: torch.Tensor, skipped: torch.Tensor
    ) -> None:
        if self.count.device.type not in _FUSED:
            for slot in group:
                self._select_update(slot, lr, decay, factor, skipped)
            return
        beta1, beta2 = self.betas
        torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
            [slot.parameter for slot in group],
            [cast(torch.Tensor, slot.parameter.grad) for slot in group],
            [slot.first for slot in group],
            [slot.second for slot in group],
            [],
            [self.count] * len(group),
            lr=lr, beta1=beta1, beta2=beta2, weight_decay=decay, eps=self.epsilon,
            amsgrad=False, maximize=False, grad_scale=factor, found_inf=skipped.float(),
        )  # fmt: skip

    def _select_update(
        self, slot: Slot, lr: float, decay: float, factor: torch.Tensor, skipped: torch.Tensor
    ) -> None:
        """The same update in plain operations: compute the new values, then choose old or new."""
        beta1, beta2 = self.betas
        assert slot.parameter.grad is not None
        gradient = slot.parameter.grad / factor
        first = slot.first.lerp(gradient, 1 - beta1)
        second = slot.second * beta2 + gradient.square() * (1 - beta2)
        correction1, correction2 = 1 - beta1**self.count, 1 - beta2**self.count
        update = (first / correction1) / ((second / correction2).sqrt() + self.epsilon)
        weight = slot.parameter * (1 - lr * decay) - lr * update
        for old, new in ((slot.parameter, weight), (slot.first, first), (slot.second, second)):
            old.copy_(torch.where(skipped, old, new))
