"""Checkpoints while training goes on: snapshot, write in the background, report what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from time import perf_counter
from typing import Any

from tunewright.checkpoint.background import BackgroundWriter, FailedSave
from tunewright.checkpoint.manifest import Metric
from tunewright.engines.protocol import Engine
from tunewright.errors import CheckpointError
from tunewright.trackers.protocol import Emit
from tunewright.train.progress import Progress


class Saving:
    """Saves of one run. A save that fails is a warning as long as training goes on: older checkpoints are
    intact and the next one may fit. `finish` raises the failure of the newest.

    run_state: what a resume needs beside the engine's state and the progress, asked for at each save.
    """

    def __init__(
        self,
        engine: Engine,
        writer: BackgroundWriter,
        emit: Emit,
        identity: Mapping[str, Any],
        run_state: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._engine, self._writer, self._emit = engine, writer, emit
        self._identity, self._run_state = identity, run_state
        self._stalls: dict[int, float] = {}
        self._failure: CheckpointError | None = None

    def save(self, progress: Progress, metric: Metric | None) -> None:
        """Copy the state and hand it to the writer."""
        started = perf_counter()
        state = {**self._run_state(), "progress": asdict(progress)}
        snapshot = self._engine.snapshot()
        copied = perf_counter() - started
        waited = self._writer.save(progress.step, snapshot, state, self._identity, metric)
        self._stalls[progress.step] = copied + waited
        self.report()

    def report(self) -> None:
        """Emit an event for each save that has ended."""
        self._emit_all(wait=False)

    def finish(self) -> None:
        """Wait for the save in flight. Raises CheckpointError when the newest one failed."""
        self._emit_all(wait=True)
        if self._failure:
            raise self._failure

    def _emit_all(self, *, wait: bool) -> None:
        for saved in self._writer.drain() if wait else self._writer.finished():
            stall = self._stalls.pop(saved.step, 0.0)
            if isinstance(saved, FailedSave):
                self._failure = saved.error
                self._emit("warning", saved.step, message=str(saved.error).split("\nhint:")[0])
                continue
            self._failure = None
            self._emit(
                "checkpoint",
                saved.step,
                path=str(saved.path),
                bytes=saved.bytes,
                seconds=saved.seconds,
                stall_seconds=stall,
            )
