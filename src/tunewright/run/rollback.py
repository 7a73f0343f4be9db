"""Go back to the last checkpoint when steps turn bad, and on with other rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tunewright.checkpoint.store import CheckpointStore
from tunewright.engines.protocol import Engine
from tunewright.errors import CheckpointError
from tunewright.run.saving import Saving
from tunewright.trackers.protocol import Emit
from tunewright.train.guard import Diverged, Guard
from tunewright.train.loop import train
from tunewright.train.parts import Loop
from tunewright.train.progress import Progress


@dataclass(frozen=True, slots=True)
class Rollback:
    """What going back takes. most: how often a run may, counted over all its processes."""

    engine: Engine
    store: CheckpointStore
    saving: Saving
    emit: Emit
    most: int

    def train(self, loop: Loop, progress: Progress) -> Progress:
        """As train.loop.train, but three bad steps in a row end the run only when it went back `most` times.

        Raises Diverged then, also when there is no checkpoint to go back to.
        """
        while True:
            try:
                return train(loop, progress)
            except Diverged as diverged:
                progress = self._go_back(diverged, loop.guard)

    def _go_back(self, diverged: Diverged, guard: Guard) -> Progress:
        """Restore the newest checkpoint and pass over the rows between it and the last bad step.

        The same rows from the same state would end the same way; rows the run has not seen since may not
        (PaLM, Chowdhery et al., 2022, section 5.1).
        """
        bad = diverged.progress
        if len(bad.passed_over) >= self.most:
            if bad.passed_over:
                diverged.what += f", after going back to a checkpoint {_times(len(bad.passed_over))}"
            raise diverged
        try:
            self.saving.finish()
            checkpoint = self.store.load()
        except CheckpointError as error:
            raise diverged from error
        self.engine.restore(checkpoint.engine)
        guard.go_back(checkpoint.run_state["guard"])
        kept = Progress.of(checkpoint.run_state["progress"])
        rows = (kept.position, bad.position)
        self.emit("rolled_back", kept.step, from_step=bad.step, rows=list(rows), reason=diverged.what)
        # What the bad try knew: the checkpoint may be older than an earlier rollback.
        passed_over = (*bad.passed_over, rows)
        return replace(
            kept,
            position=bad.position,
            source_state=bad.source_state,
            passed_over=passed_over,
            marks_due=False,
        )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
