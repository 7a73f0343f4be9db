"""Storage type of frozen weights, compute type, and the loss scale that fp16 needs."""

from __future__ import annotations

from dataclasses import dataclass, field

import mlx.core as mx

DTYPES = {"fp32": mx.float32, "bf16": mx.bfloat16, "fp16": mx.float16}


@dataclass
class LossScale:
    """Factor on the loss that keeps fp16 gradients above underflow.

    Both values live on the device, so that an overflow costs no wait: it halves the scale, and `interval`
    clean steps in a row double it.
    """

    scale: mx.array = field(default_factory=lambda: mx.array(2.0**16, mx.float32))
    clean_steps: mx.array = field(default_factory=lambda: mx.array(0, mx.int32))
    interval: int = 2000

    def update(self, overflow: mx.array) -> mx.array:
        """Take in whether the gradients of this step were non-finite (bool scalar on the device); returns
        whether the scale is lower now, so that the next step may fit. At 1 it is not."""
        before = self.scale
        clean = mx.where(overflow, 0, self.clean_steps + 1)
        grow = clean >= self.interval
        factor = mx.where(overflow, 0.5, mx.where(grow, 2.0, 1.0))
        self.scale = mx.clip(before * factor, 1.0, 2.0**24)
        self.clean_steps = mx.where(grow, 0, clean)
        return self.scale < before


def build_loss_scale(precision: str) -> LossScale | None:
    """A scale of 2^16 for fp16; None for formats with the range of fp32."""
    return LossScale() if precision == "fp16" else None
