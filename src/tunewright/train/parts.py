"""What the loop is made of."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

from tunewright.engines.protocol import Engine
from tunewright.errors import EngineOutOfMemory
from tunewright.train.cadence import Cadence
from tunewright.train.guard import Guard
from tunewright.train.progress import Progress, RunningStep
from tunewright.train.stop import StopSignal
from tunewright.train.watchdog import Watchdog
from tunewright.types import StepBatch, StepStats


class Marks(Protocol):
    """What a run does with what the loop tells it: write events, evaluate, save, export."""

    def step(self, done: RunningStep, stats: StepStats, seconds: float, skipped_steps: int) -> None: ...
    def warn(self, step: int, message: str) -> None: ...
    def evaluate(self, progress: Progress) -> None: ...
    def save(self, progress: Progress) -> None: ...
    def export(self, progress: Progress) -> None: ...

    def split(self, progress: Progress, error: EngineOutOfMemory) -> None:
        """Make the micro-batches of all steps to come smaller. Raises `error` when they cannot be."""
        ...


@dataclass(frozen=True, slots=True)
class Loop:
    """The parts of one run. batches(progress) starts the data anywhere; learning_rate is per 0-based step."""

    engine: Engine
    batches: Callable[[Progress], Generator[StepBatch]]
    learning_rate: Callable[[int], float]
    cadence: Cadence
    guard: Guard
    marks: Marks
    stop: StopSignal
    watchdog: Watchdog
    total_steps: int
