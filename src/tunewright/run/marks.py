"""What a run does at each mark of the loop: events, evaluation, checkpoints, exports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from tunewright.checkpoint.manifest import Metric
from tunewright.engines.protocol import Engine
from tunewright.errors import EngineError, EngineOutOfMemory
from tunewright.evaluate.runner import run_evaluation
from tunewright.run.exports import Exports
from tunewright.run.feed import Feed
from tunewright.run.saving import Saving
from tunewright.trackers.protocol import Emit
from tunewright.train.progress import Progress, RunningStep
from tunewright.train.stop import StopSignal
from tunewright.train.watchdog import Watchdog
from tunewright.types import Batch, StepStats

MEBIBYTE = 2**20


class _Stopped(Exception):
    """A stop was asked for in the middle of an evaluation."""


@dataclass(slots=True)
class RunMarks:
    """Implements train.parts.Marks. best_metric: the evaluation's figure that checkpoints are ranked by."""

    engine: Engine
    emit: Emit
    feed: Feed
    saving: Saving
    exports: Exports
    stop: StopSignal
    watchdog: Watchdog
    metrics: Sequence[str]
    best_metric: str
    ranks: dict[int, Metric] = field(default_factory=dict[int, Metric])
    last_loss: float = 0.0
    last_step: int = 0

    def step(self, done: RunningStep, stats: StepStats, seconds: float, skipped_steps: int) -> None:
        """Emit the step event with the one metric vocabulary."""
        sums = stats.sums
        self.last_step = done.progress.step
        self.last_loss = sums.loss / max(sums.weight, 1e-30)
        self.emit(
            "step",
            done.progress.step,
            loss=self.last_loss,
            learning_rate=done.learning_rate,
            gradient_norm=stats.gradient_norm,
            tokens_per_second=done.batch.tokens / max(seconds, 1e-9),
            gpu_memory_used=self.engine.memory_used_bytes() / MEBIBYTE,
            epoch=done.progress.epoch,
            global_step=done.progress.step,
            loss_tokens=done.batch.loss_tokens,
            token_accuracy=sums.correct / max(sums.tokens, 1),
            data_seconds=done.data_seconds,
            step_seconds=seconds,
            communication_seconds=0.0,
            skipped_steps=skipped_steps,
        )
        self.saving.report()

    def warn(self, step: int, message: str) -> None:
        """Tell a person."""
        self.emit("warning", step, message=message)

    def evaluate(self, progress: Progress) -> None:
        """Evaluate on the held-out batches; nothing when there are none. A stop ends it without a result."""
        batches = self.feed.held_out()
        if not batches:
            return
        started = perf_counter()
        try:
            found = run_evaluation(self.engine, self._watched(batches), self.metrics)
        except EngineOutOfMemory as error:
            self.split(progress, error)
            self.evaluate(progress)
            return
        except _Stopped:
            return
        if self.best_metric in found:
            self.ranks = {progress.step: Metric(self.best_metric, found[self.best_metric])}
        seconds = perf_counter() - started
        self.emit(
            "evaluation",
            progress.step,
            seconds=seconds,
            epoch=progress.epoch,
            global_step=progress.step,
            **found,
        )

    def save(self, progress: Progress) -> None:
        """Save a resumable checkpoint, ranked by the evaluation of this step if there is one. While the loss
        is not finite nothing is saved: ruined weights would push good checkpoints out."""
        if self._is_finite(progress.step, "checkpoint"):
            self.saving.save(progress, self.ranks.get(progress.step))

    def export(self, progress: Progress) -> None:
        """Write a servable export of this step; none while the loss is not finite."""
        if self._is_finite(progress.step, "export"):
            with self.watchdog.resting():
                self.exports.write_step(progress.step)

    def split(self, progress: Progress, error: EngineOutOfMemory) -> None:
        """Half the rows a forward pass, recorded as an amendment."""
        changes = self.feed.halve(error)
        self.emit("amended", progress.step, changes=changes, reason=error.what)

    def export_final(self, progress: Progress, *, merge: bool) -> Path:
        """The export that the run was for. Raises EngineError (`engine.diverged`) when the last loss was not
        finite."""
        if not math.isfinite(self.last_loss):
            raise EngineError(
                "the run ended with a loss that is not finite",
                where=f"step {progress.step}",
                got=f"loss {self.last_loss}",
                hint="lower train.learning_rate; an earlier checkpoint can be resumed with --resume PATH",
                code="engine.diverged",
            )
        with self.watchdog.resting():
            return self.exports.write("final", progress.step, merge=merge)

    def _watched(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if self.stop.requested:
                raise _Stopped
            self.watchdog.beat()
            yield batch

    def _is_finite(self, step: int, what: str) -> bool:
        if math.isfinite(self.last_loss):
            return True
        self.warn(step, f"no {what} at step {step}: the loss is {self.last_loss}")
        return False
