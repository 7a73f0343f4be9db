"""AdamW in fp32 with clipping and skipping decided on the device.

A step that must not happen (non-finite norm, or one above the caller's threshold) leaves weights, moments
and step count bit for bit as they were, without the host waiting to learn of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from tunewright.engines.mlx.precision import LossScale

Arrays = dict[str, mx.array]


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """Device scalars of one step: norm before clipping in true units, whether the step was left out, and
    whether that lowered the loss scale."""

    norm: mx.array
    skipped: mx.array
    rescaled: mx.array


class AdamW:
    """Decoupled weight decay on matrices; none on norms and biases.

    weights, first, second: fp32 master weights and moments by parameter name. gradients: what was added
    since the last step, empty before the first. count: steps applied.
    """

    def __init__(
        self, weights: Mapping[str, mx.array], *, betas: tuple[float, float], epsilon: float,
        weight_decay: float, max_norm: float,
    ) -> None:  # fmt: skip
        self.betas, self.epsilon, self.weight_decay, self.max_norm = betas, epsilon, weight_decay, max_norm
        self.weights: Arrays = {name: values.astype(mx.float32) for name, values in weights.items()}
        self.first: Arrays = {name: mx.zeros_like(values) for name, values in self.weights.items()}
        self.second: Arrays = {name: mx.zeros_like(values) for name, values in self.weights.items()}
        self.gradients: Arrays = {}
        self.count = mx.array(0.0, mx.float32)

    def step(self, *, lr: float, skip_above: float | None, scale: LossScale | None) -> StepOutcome:
        """Apply the gradients, then forget them. They carry the factor of `scale`, which is updated."""
        factor = mx.array(1.0) if scale is None else scale.scale
        norm = self._norm() / factor
        finite = mx.isfinite(norm)
        skipped = ~finite if skip_above is None else ~(finite & (norm <= skip_above))
        rescaled = mx.array(False) if scale is None else scale.update(~finite)
        if self.max_norm > 0:
            factor = factor / mx.minimum(self.max_norm / (norm + 1e-6), 1.0)
        if self.gradients:
            self._update(lr, factor, skipped)
        else:
            self.count = mx.where(skipped, self.count, self.count + 1)
        self.gradients = {}
        mx.async_eval(self.weights, self.first, self.second, self.count, norm, skipped, rescaled)
        return StepOutcome(norm, skipped, rescaled)

    def add(self, gradients: Mapping[str, mx.array]) -> None:
        """Add to the gradients of the next step."""
        earlier = self.gradients
        self.gradients = {name: earlier[name] + g if name in earlier else g for name, g in gradients.items()}

    def discard(self) -> None:
        """Drop all gradients."""
        self.gradients = {}

    def _norm(self) -> mx.array:
        if not self.gradients:
            return mx.array(0.0)
        return mx.sqrt(mx.stack([mx.square(g).sum() for g in self.gradients.values()]).sum())

    def _update(self, lr: float, factor: mx.array, skipped: mx.array) -> None:
        self.count = mx.where(skipped, self.count, self.count + 1)
        # 1 - beta^count by expm1: for a beta near 1 the difference loses four of its seven digits.
        correction1, correction2 = (
            -mx.expm1(self.count * math.log(beta)) if beta else mx.array(1.0) for beta in self.betas
        )
        for name, gradient in self.gradients.items():
            new = self._new_values(name, gradient / factor, lr, correction1, correction2)
            for kept, value in zip((self.weights, self.first, self.second), new, strict=True):
                kept[name] = mx.where(skipped, kept[name], value)

    def _new_values(
        self, name: str, gradient: mx.array, lr: float, correction1: mx.array, correction2: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        beta1, beta2 = self.betas
        weight, first, second = self.weights[name], self.first[name], self.second[name]
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * mx.square(gradient)
        update = (first / correction1) / (mx.sqrt(second / correction2) + self.epsilon)
        decay = self.weight_decay if weight.ndim >= 2 else 0.0
        return weight * (1 - lr * decay) - lr * update, first, second
