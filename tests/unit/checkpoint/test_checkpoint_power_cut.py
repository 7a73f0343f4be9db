"""Cut the power at every moment of a save, on a disk that keeps no more than what was synced."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from checkpoint_cases import is_exact, new_store, save, start_save
from power_cut import SURVIVALS, PowerCut
from tunewright import files
from tunewright.checkpoint.background import BackgroundWriter
from tunewright.checkpoint.store import CheckpointStore
from tunewright.errors import CheckpointError


class Witness:
    """Loads what each cut leaves; keeps the step that was found at each moment, 0 for none."""

    def __init__(self, scratch: Path, survival: str) -> None:
        self.scratch, self.survival = scratch, survival
        self.steps: list[int] = []
        self._busy = False

    def __call__(self, disk: PowerCut) -> None:
        if self._busy:
            return  # what follows is the work of the witness
        self._busy = True
        self.scratch.mkdir(exist_ok=True)
        disk.survivors(self.scratch / "run", self.survival, random.Random(len(self.steps)))
        store = new_store(self.scratch / "run")
        self.steps.append(_newest(store))
        save(store, 9)
        assert store.load().step == 9, "and the run can go on"
        shutil.rmtree(self.scratch / "run")
        self._busy = False


def _newest(store: CheckpointStore) -> int:
    try:
        loaded = store.load()
    except CheckpointError as error:
        if error.code != "checkpoint.none-valid":
            raise
        return 0
    assert is_exact(loaded)
    return loaded.step


def _cut_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survival: str, *, before: int, save_again: bool = False
) -> list[int]:
    """Save step `before` (0: none), then step 2 under the shim; the step found after a cut at each moment and
    after save has answered."""
    run = tmp_path / "run"
    run.mkdir()
    if before:
        save(new_store(run), before)
    if save_again:
        save(new_store(run), 2)
        (run / "checkpoints/step-000002/engine.json").write_text("{}")
    witness = Witness(tmp_path / "left", survival)
    disk = PowerCut(run, witness)
    with disk.installed(monkeypatch), BackgroundWriter(new_store(run, keep=1)) as writer:
        start_save(writer, 2)
        (outcome,) = writer.drain()
        assert outcome.step == 2
        witness(disk)
    return witness.steps


@pytest.mark.parametrize("survival", SURVIVALS)
def test_a_power_cut_leaves_the_newest_or_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survival: str
) -> None:
    steps = _cut_everywhere(tmp_path, monkeypatch, survival, before=1)
    assert len(steps) > 30
    assert set(steps) == {1, 2}
    assert steps[-1] == 2, "what was acknowledged is there"
    if survival != "some":
        assert steps == sorted(steps), "once there, it stays"


@pytest.mark.parametrize("survival", SURVIVALS)
def test_the_first_checkpoint_of_a_run_is_as_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survival: str
) -> None:
    steps = _cut_everywhere(tmp_path, monkeypatch, survival, before=0)
    assert set(steps) == {0, 2}
    assert steps[-1] == 2


@pytest.mark.parametrize("survival", ["nothing", "some"])
def test_a_damaged_folder_of_the_same_step_is_no_danger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survival: str
) -> None:
    steps = _cut_everywhere(tmp_path, monkeypatch, survival, before=1, save_again=True)
    assert set(steps) == {1, 2}
    assert steps[-1] == 2


@pytest.mark.parametrize("missing", ["_sync", "_sync_folder"])
def test_a_missing_sync_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(files, missing, lambda handle: None)
    assert _cut_everywhere(tmp_path, monkeypatch, "nothing", before=1)[-1] == 1
