"""Dropout whose mask is drawn again from a seed when the backward pass needs it, so that none is kept."""

from __future__ import annotations

import torch


def draw_seed() -> int:
    """From torch's generator of the host, which the engine has put into its own state by then: a resumed run
    goes on with it, and recomputed activations draw the same again. The device is not waited for."""
    return int(torch.randint(2**31, ()).item())


def drop(x: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """x with `share` of its values at 0 and the others scaled up; the same ones for one seed and shape."""
    generator = torch.Generator(x.device).manual_seed(seed)
    # Not empty_like(): the order of drawing would follow the strides of x.
    mask = torch.empty(x.shape, dtype=x.dtype, device=x.device).bernoulli_(1 - share, generator=generator)
    return mask.mul_(x).mul_(1 / (1 - share))
