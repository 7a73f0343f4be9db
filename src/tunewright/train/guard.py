"""Tell a run that diverges from one that meets a single bad step."""

from __future__ import annotations

from dataclasses import dataclass

from tunewright.errors import EngineError
from tunewright.types import StepStats

MOST_SKIPPED_IN_A_ROW = 3


@dataclass(slots=True)
class Guard:
    """Counts skipped steps in a row. A skipped step never reached the weights. One that only found the fp16
    loss scale too high counts for nothing: a fresh scale is often too high several times in a row."""

    skipped_in_a_row: int = 0

    def check(self, step: int, stats: StepStats) -> None:
        """Raise EngineError (`engine.diverged`) at the third skipped step in a row."""
        if stats.rescaled:
            return
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if stats.skipped else 0
        if self.skipped_in_a_row < MOST_SKIPPED_IN_A_ROW:
            return
        raise EngineError(
            f"{MOST_SKIPPED_IN_A_ROW} steps in a row had no finite gradient",
            where=f"step {step}",
            got=f"gradient_norm {stats.gradient_norm}",
            expected="a finite number",
            hint="lower train.learning_rate, or use train.precision: fp32",
            code="engine.diverged",
        )
