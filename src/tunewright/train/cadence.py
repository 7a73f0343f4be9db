"""Which steps are marks: evaluate, save, export. Pure functions of how far a run is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tunewright.config.schema import CheckpointConfig, EvaluateConfig
from tunewright.train.progress import Progress


@dataclass(frozen=True, slots=True)
class Cadence:
    """Steps are counted from 1 (steps done); 0 is the state before the first one."""

    total_steps: int
    evaluate_every_steps: int
    save_every_steps: int
    export_every: Literal["epoch", "never"] | int

    def evaluates(self, step: int) -> bool:
        """Before the first step, every N steps, at the end."""
        return step % self.evaluate_every_steps == 0 or step == self.total_steps

    def count_evaluations(self) -> int:
        """Evaluations of the whole run."""
        return 1 + math.ceil(self.total_steps / self.evaluate_every_steps)

    def saves(self, step: int) -> bool:
        """Every N steps and at the end."""
        return step > 0 and (step % self.save_every_steps == 0 or step == self.total_steps)

    def exports(self, progress: Progress) -> bool:
        """At the end of each epoch or every N steps; the end of the run has an export of its own."""
        if not 0 < progress.step < self.total_steps or self.export_every == "never":
            return False
        if self.export_every == "epoch":
            # No step crosses an epoch: the last one of an epoch makes it a whole number exactly.
            return progress.epoch == int(progress.epoch)
        return progress.step % self.export_every == 0

    def is_mark(self, progress: Progress) -> bool:
        """Whether anything happens after this step."""
        return self.evaluates(progress.step) or self.saves(progress.step) or self.exports(progress)


def build_cadence(checkpoint: CheckpointConfig, evaluate: EvaluateConfig, *, total_steps: int) -> Cadence:
    """The marks that a run asks for."""
    return Cadence(total_steps, evaluate.every_steps, checkpoint.every_steps, checkpoint.export_every)
