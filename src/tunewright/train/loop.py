"""The training loop: one optimizer step after another over the engine protocol.

It knows neither torch nor mlx, neither files nor terminals: run/build.py hands it an engine, a stream of
step batches and what to do at a mark (evaluate, save, export). Read it top to bottom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

from tunewright.engines.protocol import Engine
from tunewright.train.cadence import Cadence
from tunewright.train.guard import Guard
from tunewright.train.progress import Progress, RunningStep
from tunewright.train.stop import StopSignal
from tunewright.types import StepBatch, StepStats


class Marks(Protocol):
    """What a run does with what the loop tells it: write events, evaluate, save, export."""

    def step(self, done: RunningStep, stats: StepStats, seconds: float, skipped_steps: int) -> None: ...
    def evaluate(self, progress: Progress) -> None: ...
    def save(self, progress: Progress) -> None: ...
    def export(self, progress: Progress) -> None: ...


@dataclass(frozen=True, slots=True)
class Loop:
    """The parts of one run. batches(position) starts the data anywhere; learning_rate is per 0-based step."""

    engine: Engine
    batches: Callable[[int], Iterator[StepBatch]]
    learning_rate: Callable[[int], float]
    cadence: Cadence
    guard: Guard
    marks: Marks
    stop: StopSignal
    total_steps: int


def train(loop: Loop, progress: Progress) -> Progress:
    """Train from `progress` to the last step, or to the first step boundary after a stop was asked for.

    What is returned has been saved. Raises what the engine, the guard or a mark raises.
    """
    batches = loop.batches(progress.position)
    running: RunningStep | None = None
    if progress.step == 0:
        _at_mark(loop, progress)
    while progress.step < loop.total_steps and not loop.stop.requested:
        started = perf_counter()
        batch = next(batches)
        data_seconds = perf_counter() - started
        lr = loop.learning_rate(progress.step)
        loop.engine.forward_backward(batch.micro_batches, denominator=batch.loss_weight)
        pending = loop.engine.optim_step(lr=lr, skip_above=None)
        # The step before is read only now, when the device already has its next work.
        progress = _settle(loop, running, progress, until=started).after(batch)
        running = RunningStep(progress, batch, lr, pending, started, data_seconds)
        if loop.cadence.is_mark(progress.step):
            progress, running = _settle(loop, running, progress), None
            _at_mark(loop, progress)
    progress = _settle(loop, running, progress)
    if loop.stop.requested and progress.step > 0 and not loop.cadence.saves(progress.step):
        loop.marks.save(progress)
    return progress


def _settle(loop: Loop, done: RunningStep | None, progress: Progress, until: float | None = None) -> Progress:
    """Wait for a dispatched step, report it, check it. `until`: when its successor started."""
    if done is None:
        return progress
    stats = done.pending.read()
    progress = replace(progress, skipped_steps=progress.skipped_steps + stats.skipped)
    loop.marks.step(done, stats, (until or perf_counter()) - done.started, progress.skipped_steps)
    loop.guard.check(done.progress.step, stats)
    return progress


def _at_mark(loop: Loop, progress: Progress) -> None:
    """Evaluate before saving: a checkpoint carries the loss that it is ranked by."""
    if loop.cadence.evaluates(progress.step):
        loop.marks.evaluate(progress)
    if loop.cadence.saves(progress.step):
        loop.marks.save(progress)
    if loop.cadence.exports(progress.step):
        loop.marks.export(progress)
