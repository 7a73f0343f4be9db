"""How far a run is, and a step that is still on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tunewright.engines.protocol import PendingStep
from tunewright.types import StepBatch


@dataclass(frozen=True, slots=True)
class Progress:
    """position: source rows consumed over all epochs; with the seed it is the whole state of the data order.
    epoch: passes over the data. tokens: real tokens trained on. skipped_steps: updates not applied.
    passed_over: rows [from, to) that a rollback left out for good. marks_due: a stop came before everything
    that belongs to this step (evaluation, export) was done. source_state: that of the last StepBatch."""

    step: int = 0
    position: int = 0
    epoch: float = 0.0
    tokens: int = 0
    skipped_steps: int = 0
    passed_over: tuple[tuple[int, int], ...] = ()
    marks_due: bool = False
    source_state: str = ""

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Progress:
        """From the JSON values of a checkpoint; fields that its version did not have get their defaults."""
        passed_over = tuple((first, end) for first, end in saved.get("passed_over", ()))
        return replace(cls(**dict(saved)), passed_over=passed_over)

    def after(self, batch: StepBatch) -> Progress:
        """One optimizer step further."""
        return replace(
            self,
            step=self.step + 1,
            position=batch.position,
            epoch=batch.epoch,
            tokens=self.tokens + batch.tokens,
            source_state=batch.source_state,
        )


@dataclass(frozen=True, slots=True)
class RunningStep:
    """A dispatched step and what to report of it. started: perf_counter() seconds before its data was asked
    for; data_seconds: how long the data took."""

    progress: Progress
    batch: StepBatch
    learning_rate: float
    pending: PendingStep
    started: float
    data_seconds: float
