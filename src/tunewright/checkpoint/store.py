"""Save and load resumable checkpoints so that a crash at any moment leaves a valid one.

Layout and recipe: docs/concepts/checkpoint-format.md.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from tunewright.arrays import ArrayFileError, read_arrays, write_arrays
from tunewright.checkpoint.disk import named_disk_faults
from tunewright.checkpoint.manifest import (
    MANIFEST,
    Manifest,
    Metric,
    damaged,
    read_manifest,
    verify_files,
    write_manifest,
)
from tunewright.errors import CheckpointError
from tunewright.files import commit_folder, json_bytes, make_folder, write_json
from tunewright.types import EngineState

ARRAYS = "engine.safetensors"
VALUES = "engine.json"
RUN_STATE = "run_state.json"
STEP_FOLDER = re.compile(r"step-(\d{6,})")
# Room for the JSON files beside the arrays, when a message says what a save needs.
JSON_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A committed checkpoint: its step, folder, bytes on disk and seconds the save took."""

    step: int
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
    `keep_best`, the one whose metric is the lowest (`best_mode` min) or highest (max)."""

    folder: Path
    keep: int
    keep_best: bool
    best_mode: Literal["min", "max"] = "min"

    def save(
        self,
        step: int,
        engine: EngineState,
        run_state: Mapping[str, Any],
        identity: Mapping[str, Any],
        metric: Metric | None,
    ) -> SavedCheckpoint:
        """Write to a temporary folder, make it durable, rename it, only then remove older ones.

        A valid checkpoint of the same step and identity is kept as it is; any other is set aside, never
        overwritten. metric: one that is not finite ranks nothing. Raises CheckpointError
        (`checkpoint.disk-full`, `.not-writable`, `.disk-error`, `.write-failed`); nothing half-written is
        left then and older checkpoints are untouched.
        """
        started = perf_counter()
        final = self._path(step)
        ranked = metric if metric and math.isfinite(metric.value) else None
        manifest = Manifest(step, ranked, identity, {})
        needed = sum(memoryview(array.data).nbytes for array in engine.arrays.values()) + JSON_BYTES
        with named_disk_faults(self.folder, needed):
            make_folder(self.folder)
            self._remove_leftovers()
            size = _committed_bytes(final, manifest)
            if size is None:
                _set_aside(final)
                size = self._commit(final, manifest, engine, run_state)
                self._remove_old()
        return SavedCheckpoint(step, final, size, perf_counter() - started)

    def load(self, path: Path | None = None) -> LoadedCheckpoint:
        """Verify and read `path`, or the newest checkpoint that is valid.

        Raises CheckpointError: `checkpoint.damaged`, `checkpoint.newer-format`, `checkpoint.none-valid`.
        """
        if path is not None:
            return _read(path, ())
        rejected: list[str] = []
        for step in reversed(self.steps()):
            try:
                return _read(self._path(step), tuple(rejected), step)
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
        found = (STEP_FOLDER.fullmatch(path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def _commit(
        self, final: Path, manifest: Manifest, engine: EngineState, run_state: Mapping[str, Any]
    ) -> int:
        temporary = self.folder / f"tmp-{manifest.step:06d}-{os.getpid()}"
        try:
            temporary.mkdir()
            size = _write(temporary, manifest, engine, run_state)
            commit_folder(temporary, final)
        except BaseException:
            _remove_tree(temporary)
            raise
        return size

    def _remove_leftovers(self) -> None:
        # run.lock keeps other live writers out, so a temporary folder here is of a process that died.
        for leftover in self.folder.glob("tmp-*"):
            _remove_tree(leftover)

    def _remove_old(self) -> None:
        steps = self.steps()
        keep = set(steps[-self.keep :])
        if self.keep_best and (best := self._best(steps)) is not None:
            keep.add(best)
        for step in steps:
            if step not in keep:
                self._remove(step)

    def _best(self, steps: list[int]) -> int | None:
        """The best by the metric that the newest of them was ranked by; the earliest of equals."""
        metrics = {step: metric for step in steps if (metric := self._metric(step))}
        if not metrics:
            return None
        name = metrics[max(metrics)].name
        sign = 1 if self.best_mode == "min" else -1
        return min((sign * metric.value, step) for step, metric in metrics.items() if metric.name == name)[1]

    def _remove(self, step: int) -> None:
        # Renamed first: a removal that is cut short leaves no step folder with half its files.
        doomed = self.folder / f"tmp-removed-{step:06d}"
        try:
            self._path(step).rename(doomed)
        except OSError:
            return  # the new checkpoint is safe; an old one too many is not worth ending a run for
        _remove_tree(doomed)

    def _metric(self, step: int) -> Metric | None:
        try:
            return read_manifest(self._path(step)).metric
        except CheckpointError:
            return None


def _remove_tree(folder: Path) -> None:
    """Remove what can be removed; the next save tries again."""
    # ignore_errors alone lets a failing close through.
    with suppress(OSError):
        shutil.rmtree(folder, ignore_errors=True)


def _committed_bytes(final: Path, manifest: Manifest) -> int | None:
    """Size of a valid checkpoint that already says the same; None when there is none."""
    if not final.exists():
        return None
    try:
        found = read_manifest(final)
        verify_files(final, found)
    except CheckpointError:
        return None
    if found.step != manifest.step or json_bytes(found.identity) != json_bytes(dict(manifest.identity)):
        return None
    return sum(digest.bytes for digest in found.files.values()) + (final / MANIFEST).stat().st_size


def _set_aside(final: Path) -> None:
    """Give a damaged or foreign folder of this step another name; what it holds may still help a person."""
    if not final.exists():
        return
    number = 1
    while (aside := final.with_name(f"aside-{final.name}-{number}")).exists():
        number += 1
    final.rename(aside)


def _write(folder: Path, manifest: Manifest, engine: EngineState, run_state: Mapping[str, Any]) -> int:
    files = {
        ARRAYS: write_arrays(folder / ARRAYS, engine.arrays),
        VALUES: write_json(folder / VALUES, dict(engine.values)),
        RUN_STATE: write_json(folder / RUN_STATE, dict(run_state)),
    }
    own = write_manifest(folder, replace(manifest, files=files))
    return sum(digest.bytes for digest in files.values()) + own.bytes


def _read(path: Path, rejected: tuple[str, ...], step: int | None = None) -> LoadedCheckpoint:
    if not path.is_dir():
        raise CheckpointError("there is no checkpoint folder", where=str(path), code="checkpoint.missing")
    manifest = read_manifest(path)
    if step is not None and manifest.step != step:
        raise damaged(path / MANIFEST, f"is of step {manifest.step}: the folder was renamed")
    verify_files(path, manifest)
    try:
        state = EngineState(read_arrays(path / ARRAYS), json.loads((path / VALUES).read_bytes()))
        run_state = json.loads((path / RUN_STATE).read_bytes())
    except (ArrayFileError, ValueError, OSError) as error:
        raise damaged(path, f"cannot be read: {error}") from error
    return LoadedCheckpoint(path, manifest.step, state, run_state, manifest.identity, rejected)
