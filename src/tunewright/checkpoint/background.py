"""Save checkpoints in a thread of their own, so that training goes on while the disk works."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from tunewright.checkpoint.manifest import Metric
from tunewright.checkpoint.store import CheckpointStore, SavedCheckpoint
from tunewright.errors import CheckpointError
from tunewright.types import EngineState


@dataclass(frozen=True, slots=True)
class FailedSave:
    """A save that ended with a named fault. Older checkpoints are untouched."""

    step: int
    error: CheckpointError


SaveOutcome = SavedCheckpoint | FailedSave


class BackgroundWriter:
    """One thread that writes one checkpoint at a time. Hashing, writing and syncing leave Python's lock free.

    For use from one thread, as a context manager. A fault that is no CheckpointError is a bug, and is raised
    again by whichever method is called next. A process that ends by itself, also with an exception, first
    finishes the save in flight.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._saving: tuple[int, Future[SavedCheckpoint]] | None = None
        self._outcomes: list[SaveOutcome] = []

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def save(
        self,
        step: int,
        engine: EngineState,
        run_state: Mapping[str, Any],
        identity: Mapping[str, Any],
        metric: Metric | None,
    ) -> float:
        """Start to save as CheckpointStore.save does; returns the seconds it waited for the save before.

        The values must not change any more: the thread reads them later.
        """
        started = perf_counter()
        self._settle()
        waited = perf_counter() - started
        self._saving = step, self._thread.submit(self._store.save, step, engine, run_state, identity, metric)
        return waited

    def finished(self) -> list[SaveOutcome]:
        """What ended since the last answer, in order, without waiting."""
        if self._saving and self._saving[1].done():
            self._settle()
        return self._take_outcomes()

    def drain(self) -> list[SaveOutcome]:
        """Wait for the save in flight; the rest is as in finished()."""
        self._settle()
        return self._take_outcomes()

    def close(self) -> None:
        """Wait for the save in flight and end the thread. Outcomes not asked for yet stay to be read."""
        try:
            self._settle()
        finally:
            self._thread.shutdown()

    def _settle(self) -> None:
        if self._saving is None:
            return
        step, future = self._saving
        wait([future])
        # Only now: an interrupt while waiting leaves the save to the next call.
        self._saving = None
        error = future.exception()
        if error is None:
            self._outcomes.append(future.result())
        elif isinstance(error, CheckpointError):
            self._outcomes.append(FailedSave(step, error))
        else:
            raise error

    def _take_outcomes(self) -> list[SaveOutcome]:
        taken, self._outcomes = self._outcomes, []
        return taken
