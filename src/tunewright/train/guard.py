"""Tell a run that diverges, or jumps, from one that meets a single bad step.

Whatever decides about step k uses steps up to k-2 only: step k-1 may still be on the device when k is sent
off, and a decision must not depend on how fast a device is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any, Literal

from tunewright.errors import EngineError
from tunewright.train.progress import Progress
from tunewright.types import StepStats

MOST_BAD_IN_A_ROW = 3
WINDOW = 64
FEWEST = 16
# A spike is above the median by SPIKE_DEVIATIONS median absolute deviations, and by LEAST_RISE medians:
# small batches of short rows triple their gradient norm now and then.
SPIKE_DEVIATIONS = 10
LEAST_RISE = {"loss": 1.0, "gradient_norm": 4.0}

Spike = Literal["warn", "skip", "off"]


class Diverged(EngineError):
    """Three bad steps in a row. progress: after the third of them."""

    def __init__(self, progress: Progress, stats: StepStats) -> None:
        super().__init__(
            f"{MOST_BAD_IN_A_ROW} steps in a row were left out: no finite gradient, or one far too large",
            where=f"step {progress.step}",
            got=f"gradient_norm {stats.gradient_norm:g}",
            expected="a finite number",
            hint="lower train.learning_rate, or use train.precision: fp32",
            code="engine.diverged",
        )
        self.progress = progress


@dataclass(frozen=True, slots=True)
class _Seen:
    step: int
    loss: float
    gradient_norm: float


class Guard:
    """Follows loss and gradient norm. Its state belongs to a checkpoint: a resumed run decides alike."""

    def __init__(self, spike: Spike = "warn", state: Mapping[str, Any] | None = None) -> None:
        self._spike = spike
        self._bad_in_a_row = 0
        self._seen: list[_Seen] = []
        if state:
            self.go_back(state)
            self._bad_in_a_row = state["bad_in_a_row"]

    @property
    def bad_in_a_row(self) -> int:
        """Steps left out since the last one that was applied."""
        return self._bad_in_a_row

    def state(self) -> dict[str, Any]:
        """JSON values that the constructor takes."""
        seen = [[one.step, one.loss, one.gradient_norm] for one in self._seen]
        return {"bad_in_a_row": self._bad_in_a_row, "seen": seen}

    def go_back(self, state: Mapping[str, Any]) -> None:
        """Take the state of an earlier checkpoint, with no bad step counted against what comes now."""
        self._bad_in_a_row = 0
        self._seen = [_Seen(*values) for values in state["seen"]]

    def skip_above(self, step: int) -> float | None:
        """Gradient norm above which step `step` (counted from 1) is left out; None for no bound."""
        if self._spike != "skip":
            return None
        return _threshold("gradient_norm", [one.gradient_norm for one in self._before(step)])

    def check(self, progress: Progress, stats: StepStats) -> str | None:
        """Take in the step that led to `progress`; returns a warning if it is one to look at.

        A step that only found the fp16 loss scale too high counts for nothing: a fresh scale is often too
        high several times in a row. Raises Diverged at the third bad step in a row.
        """
        if stats.rescaled:
            return None
        loss = stats.sums.loss / max(stats.sums.weight, 1e-30)
        warning = self._describe(progress.step, loss, stats)
        if stats.skipped:
            self._bad_in_a_row += 1
            if self._bad_in_a_row >= MOST_BAD_IN_A_ROW:
                raise Diverged(progress, stats)
            return warning
        self._bad_in_a_row = 0
        if math.isfinite(loss):
            self._seen = [*self._seen[-WINDOW - 1 :], _Seen(progress.step, loss, stats.gradient_norm)]
        return warning

    def _describe(self, step: int, loss: float, stats: StepStats) -> str | None:
        end = " and was left out" if stats.skipped else ""
        if not math.isfinite(stats.gradient_norm):
            return f"step {step} had no finite gradient{end}"
        if self._spike == "off":
            return None
        before = self._before(step)
        for name, value, values in (
            ("loss", loss, [one.loss for one in before]),
            ("gradient_norm", stats.gradient_norm, [one.gradient_norm for one in before]),
        ):
            bound = _threshold(name, values)
            if bound is not None and value > bound:
                return f"step {step} jumped: {name} {value:.4g}, usual is {median(values):.4g}{end}"
        return None

    def _before(self, step: int) -> list[_Seen]:
        usable = (one for one in reversed(self._seen) if one.step <= step - 2)
        return list(islice(usable, WINDOW))


def _threshold(name: str, values: Sequence[float]) -> float | None:
    if len(values) < FEWEST:
        return None
    middle = median(values)
    deviation = median(abs(value - middle) for value in values)
    return middle + max(SPIKE_DEVIATIONS * deviation, LEAST_RISE[name] * middle)
