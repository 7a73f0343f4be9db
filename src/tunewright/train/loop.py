"""The training loop: one optimizer step after another over the engine protocol.

It knows neither torch nor mlx, neither files nor terminals: run/ hands it an engine, a stream of step
batches and what to do at a mark (evaluate, export, save). Read it top to bottom.
"""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from tunewright.errors import DataError, EngineOutOfMemory
from tunewright.train.parts import Loop
from tunewright.train.progress import Progress, RunningStep


def train(loop: Loop, progress: Progress) -> Progress:
    """Train from `progress` to the last step, to the end of the data, or to the first step boundary after a
    stop was asked for.

    What is returned has been handed to `marks.save`; so has what was trained before a DataError is raised.
    Raises what the engine, the guard (Diverged) or a mark raises.
    """
    if progress.step == 0 or progress.marks_due:
        progress = _at_mark(loop, progress)
    running: RunningStep | None = None
    batches = loop.batches(progress)
    try:
        while progress.step < loop.total_steps and not loop.stop.requested:
            loop.watchdog.step()
            started = perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            data_seconds = perf_counter() - started
            lr = loop.learning_rate(progress.step)
            try:
                loop.engine.forward_backward(batch.micro_batches, denominator=batch.loss_weight)
            except EngineOutOfMemory as error:
                loop.engine.discard_gradients()
                progress, running = _settle(loop, running, progress), None
                loop.marks.split(progress, error)
                batches.close()
                batches = loop.batches(progress)
                continue
            pending = loop.engine.optim_step(lr=lr, skip_above=loop.guard.skip_above(progress.step + 1))
            # The step before is read only now, when the device already has its next work.
            progress = _settle(loop, running, progress, until=started).after(batch)
            running = RunningStep(progress, batch, lr, pending, started, data_seconds)
            if loop.cadence.is_mark(progress):
                progress, running = _settle(loop, running, progress), None
                progress = _at_mark(loop, progress)
    except DataError:
        _leave(loop, _settle(loop, running, progress))
        raise
    finally:
        batches.close()
    return _leave(loop, _settle(loop, running, progress))


def _settle(loop: Loop, done: RunningStep | None, progress: Progress, until: float | None = None) -> Progress:
    """Wait for a dispatched step, report it, check it. `until`: when its successor started."""
    if done is None:
        return progress
    stats = done.pending.read()
    progress = replace(progress, skipped_steps=progress.skipped_steps + stats.skipped)
    loop.marks.step(done, stats, (until or perf_counter()) - done.started, progress.skipped_steps)
    if warning := loop.guard.check(done.progress, stats):
        loop.marks.warn(done.progress.step, warning)
    return progress


def _at_mark(loop: Loop, progress: Progress) -> Progress:
    """Saving comes last: a run that is killed before it does everything of this step again. The checkpoint
    carries the loss that it is ranked by."""
    if loop.cadence.evaluates(progress.step):
        loop.marks.evaluate(progress)
    if loop.stop.requested:
        return replace(progress, marks_due=True)
    progress = replace(progress, marks_due=False)
    if loop.cadence.exports(progress):
        loop.marks.export(progress)
    if loop.cadence.saves(progress.step):
        loop.marks.save(progress)
    return progress


def _leave(loop: Loop, progress: Progress) -> Progress:
    """Save what no mark has saved yet."""
    if progress.step > 0 and (progress.marks_due or not loop.cadence.saves(progress.step)):
        loop.marks.save(progress)
    return progress
