"""Learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

from tunewright.config.schema import TrainConfig


def build_schedule(train: TrainConfig, total_steps: int, peak: float) -> Callable[[int], float]:
    """Learning rate of each 0-based step: a linear warm-up over ceil(warmup_ratio · total_steps) steps, then
    the named shape from `peak` on. The first warm-up step is above 0 so that no step is wasted."""
    warmup = math.ceil(train.warmup_ratio * total_steps)
    shape = SCHEDULES[train.schedule]

    def learning_rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        return peak * shape((step - warmup) / max(total_steps - warmup, 1))

    return learning_rate


def cosine(done: float) -> float:
    """Half a cosine from 1 at done = 0 to 0 at done = 1."""
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def linear(done: float) -> float:
    """A straight line from 1 to 0."""
    return 1 - min(done, 1.0)


def constant(done: float) -> float:
    """1 throughout."""
    del done
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {"cosine": cosine, "linear": linear, "constant": constant}
