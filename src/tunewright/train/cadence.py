"""Which steps are marks: evaluate, save, export. Pure functions of the step number."""

from __future__ import annotations

from dataclasses import dataclass

from tunewright.config.schema import CheckpointConfig, EvaluateConfig


@dataclass(frozen=True, slots=True)
class Cadence:
    """Steps are counted from 1 (steps done); 0 is the state before the first one. export_every_steps: 0 for
    none before the end."""

    total_steps: int
    evaluate_every_steps: int
    save_every_steps: int
    export_every_steps: int

    def evaluates(self, step: int) -> bool:
        """Before the first step, every N steps, at the end."""
        return step % self.evaluate_every_steps == 0 or step == self.total_steps

    def saves(self, step: int) -> bool:
        """Every N steps and at the end."""
        return step > 0 and (step % self.save_every_steps == 0 or step == self.total_steps)

    def exports(self, step: int) -> bool:
        """Every N steps or epochs; the end has an export of its own."""
        return (
            self.export_every_steps > 0
            and 0 < step < self.total_steps
            and step % self.export_every_steps == 0
        )

    def is_mark(self, step: int) -> bool:
        """Whether anything happens after this step."""
        return self.evaluates(step) or self.saves(step) or self.exports(step)


def build_cadence(
    checkpoint: CheckpointConfig, evaluate: EvaluateConfig, *, steps_per_epoch: int, total_steps: int
) -> Cadence:
    """Cadence in steps: an epoch is `steps_per_epoch` of them, since no step crosses an epoch."""
    every = checkpoint.export_every
    export_every = steps_per_epoch if every == "epoch" else 0 if every == "never" else every
    return Cadence(total_steps, evaluate.every_steps, checkpoint.every_steps, export_every)
