"""Storage type of frozen weights, compute type, and the loss scale that fp16 needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from tunewright.engines.number_formats import check_formats
from tunewright.errors import EngineError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(dtype: str, precision: str, device: torch.device) -> None:
    """Raise EngineError unless frozen weights of `dtype` can be computed with in `precision` on `device`."""
    check_formats(dtype, precision)
    if precision == "bf16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise EngineError(
            "this GPU has no bf16",
            where="train.precision",
            got="bf16",
            expected="fp16 or fp32",
            hint="set train.precision: fp16",
            code="engine.unsupported-dtype",
        )


def compute_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to the compute type; nothing in fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


@dataclass
class LossScale:
    """Factor on the loss that keeps fp16 gradients above underflow.

    Both values live on the device, so that an overflow costs no wait: it halves the scale, and `interval`
    clean steps in a row double it.
    """

    scale: torch.Tensor
    clean_steps: torch.Tensor
    interval: int = 2000

    def update(self, overflow: torch.Tensor) -> torch.Tensor:
        """Take in whether the gradients of this step were non-finite (bool scalar on the device); returns
        whether the scale is lower now, so that the next step may fit. At 1 it is not."""
        before = self.scale.clone()
        clean = torch.where(overflow, 0, self.clean_steps + 1)
        grow = clean >= self.interval
        factor = torch.where(overflow, 0.5, torch.where(grow, 2.0, 1.0))
        self.scale.mul_(factor).clamp_(1.0, 2.0**24)
        self.clean_steps.copy_(torch.where(grow, 0, clean))
        return self.scale < before


def build_loss_scale(precision: str, device: torch.device) -> LossScale | None:
    """A scale of 2^16 for fp16; None for formats with the range of fp32."""
    if precision != "fp16":
        return None
    return LossScale(torch.tensor(2.0**16, device=device), torch.tensor(0, dtype=torch.int64, device=device))
