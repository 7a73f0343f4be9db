"""Save and load resumable checkpoints so that a crash at any moment leaves a valid one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from tunewright.arrays import ArrayFileError, read_arrays, write_arrays
from tunewright.checkpoint.manifest import Manifest, read_manifest, verify_files, write_manifest
from tunewright.errors import CheckpointError
from tunewright.files import commit_folder, write_json
from tunewright.types import EngineState

ARRAYS = "engine.safetensors"
VALUES = "engine.json"
RUN_STATE = "run_state.json"


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A committed checkpoint: its folder, bytes on disk and seconds the save took."""

    path: Path
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A verified checkpoint. rejected: one line for each newer one that was passed over."""

    path: Path
    step: int
    engine: EngineState
    run_state: Mapping[str, Any]
    identity: Mapping[str, Any]
    rejected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """Checkpoints below `folder`, one folder a step, never written twice. Keeps the newest `keep` and, with
    `keep_best`, the one with the lowest metric."""

    folder: Path
    keep: int
    keep_best: bool

    def save(
        self,
        step: int,
        engine: EngineState,
        run_state: Mapping[str, Any],
        identity: Mapping[str, Any],
        metric: float | None,
    ) -> SavedCheckpoint:
        """Write to a temporary folder, make it durable, rename it, only then remove older ones.

        A valid checkpoint of the same step is kept as it is. Raises OSError; the temporary folder is gone
        then and older checkpoints are untouched.
        """
        started = perf_counter()
        final = self.folder / f"step-{step:06d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        if final.exists() and not self._set_aside_if_damaged(final):
            size = sum(digest.bytes for digest in read_manifest(final).files.values())
            return SavedCheckpoint(final, size, perf_counter() - started)
        temporary = self.folder / f"tmp-{step:06d}-{os.getpid()}"
        try:
            temporary.mkdir()
            size = _write(temporary, step, engine, run_state, identity, metric)
            commit_folder(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._remove_old()
        return SavedCheckpoint(final, size, perf_counter() - started)

    def load(self, path: Path | None = None) -> LoadedCheckpoint:
        """Verify and read `path`, or the newest checkpoint that is valid.

        Raises CheckpointError: `checkpoint.damaged`, `checkpoint.newer-format`, `checkpoint.none-valid`.
        """
        if path is not None:
            return _read(path, ())
        rejected: list[str] = []
        for step in reversed(self.steps()):
            try:
                return _read(self.folder / f"step-{step:06d}", tuple(rejected))
            except CheckpointError as error:
                if error.code == "checkpoint.newer-format":
                    raise
                rejected.append(f"{error.where}: {error.what}")
        raise CheckpointError(
            "no valid checkpoint",
            where=str(self.folder),
            got="; ".join(rejected) or "an empty folder",
            hint="start a new run",
            code="checkpoint.none-valid",
        )

    def steps(self) -> list[int]:
        """Steps that have a checkpoint folder, valid or not, oldest first."""
        names = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted(int(name) for name in names if name.isdigit())

    def _remove_leftovers(self) -> None:
        # run.lock keeps other live writers out, so a temporary folder here is of a process that died.
        for leftover in self.folder.glob("tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _set_aside_if_damaged(self, final: Path) -> bool:
        try:
            verify_files(final, read_manifest(final))
        except CheckpointError:
            aside = final.with_name(f"damaged-{final.name}-{os.getpid()}")
            shutil.rmtree(aside, ignore_errors=True)
            final.rename(aside)
            return True
        return False

    def _remove_old(self) -> None:
        steps = self.steps()
        keep = set(steps[-self.keep :])
        if self.keep_best:
            metrics = {step: metric for step in steps if (metric := self._metric(step)) is not None}
            if metrics:
                keep.add(min(metrics, key=lambda step: (metrics[step], step)))
        for step in steps:
            if step not in keep:
                shutil.rmtree(self.folder / f"step-{step:06d}", ignore_errors=True)

    def _metric(self, step: int) -> float | None:
        try:
            return read_manifest(self.folder / f"step-{step:06d}").metric
        except CheckpointError:
            return None


def _write(
    folder: Path,
    step: int,
    engine: EngineState,
    run_state: Mapping[str, Any],
    identity: Mapping[str, Any],
    metric: float | None,
) -> int:
    files = {
        ARRAYS: write_arrays(folder / ARRAYS, engine.arrays),
        VALUES: write_json(folder / VALUES, dict(engine.values)),
        RUN_STATE: write_json(folder / RUN_STATE, dict(run_state)),
    }
    manifest = write_manifest(folder, Manifest(step, metric, identity, files))
    return sum(digest.bytes for digest in files.values()) + manifest.bytes


def _read(path: Path, rejected: tuple[str, ...]) -> LoadedCheckpoint:
    if not path.is_dir():
        raise CheckpointError("there is no checkpoint folder", where=str(path), code="checkpoint.missing")
    manifest = read_manifest(path)
    verify_files(path, manifest)
    try:
        state = EngineState(read_arrays(path / ARRAYS), json.loads((path / VALUES).read_bytes()))
        run_state = json.loads((path / RUN_STATE).read_bytes())
    except (ArrayFileError, ValueError, OSError) as error:
        raise CheckpointError(
            f"cannot be read: {error}", where=str(path), code="checkpoint.damaged"
        ) from error
    return LoadedCheckpoint(path, manifest.step, state, run_state, manifest.identity, rejected)
