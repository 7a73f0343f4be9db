"""Make every single call of a save fail, end the process at every moment, and kill it."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint_cases import is_exact, new_store, save, start_save
from tunewright.checkpoint.background import BackgroundWriter, FailedSave, SaveOutcome
from tunewright.checkpoint.store import CheckpointStore
from tunewright.errors import CheckpointError

CALLS = ("open", "write", "fsync", "close", "rename", "mkdir", "unlink", "rmdir")
CHANGES = ("open", "write", "fsync", "rename", "unlink", "rmdir", "mkdir")

# What goes wrong at one call, or at all from that one on, and how the save then names it.
FAULTS = [
    (errno.EIO, False, "checkpoint.disk-error"),
    (errno.ENOSPC, True, "checkpoint.disk-full"),
    (errno.EDQUOT, True, "checkpoint.disk-full"),
    (errno.EROFS, True, "checkpoint.not-writable"),
    (errno.EMFILE, False, "checkpoint.write-failed"),
]


class FaultyOs:
    """Makes one call of the module os fail, or all from that one on. Syncs cost nothing here.

    short_writes: a write takes half of what it is given, and of the failing write the disk takes half too.
    """

    def __init__(self, fail_at: int, code: int, *, persistent: bool, short_writes: bool = False) -> None:
        self.calls = 0
        self._fail_at = fail_at
        self._code = code
        self._persistent = persistent
        self._short_writes = short_writes

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            patch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.calls += 1
            if name == "write" and self._short_writes:
                args = (args[0], args[1][: (len(args[1]) + 1) // 2])
            if self.calls == self._fail_at or (self._persistent and self.calls > self._fail_at):
                if name == "close" or (name == "write" and self._short_writes):
                    real(*args, **more)  # the system frees the handle even when it reports a fault
                raise OSError(self._code, os.strerror(self._code))
            return None if name == "fsync" else real(*args, **more)

        return call


def _save_here(store: CheckpointStore) -> SaveOutcome:
    try:
        return save(store, 2)
    except CheckpointError as error:
        return FailedSave(2, error)


def _save_behind(store: CheckpointStore) -> SaveOutcome:
    with BackgroundWriter(store) as writer:
        start_save(writer, 2)
        (outcome,) = writer.drain()
    return outcome


@pytest.mark.parametrize(
    ("save_second", "short_writes"), [(_save_here, False), (_save_behind, True)], ids=["here", "behind"]
)
@pytest.mark.parametrize(("code", "persistent", "name"), FAULTS)
def test_each_call_of_a_save_fails_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save_second: Callable[[CheckpointStore], SaveOutcome],
    code: int,
    persistent: bool,
    name: str,
    short_writes: bool,
):
    fail_at, failed = 0, 0
    while True:
        fail_at += 1
        store = new_store(tmp_path / f"{fail_at}", keep=1)
        with monkeypatch.context() as patch:
            FaultyOs(0, 0, persistent=False).install(patch)
            save(store, 1)
        with monkeypatch.context() as patch:
            faulty = FaultyOs(fail_at, code, persistent=persistent, short_writes=short_writes)
            faulty.install(patch)
            outcome = save_second(store)
        _check_outcome(store, outcome, name)
        if not persistent:
            left = {path.name for path in store.folder.iterdir()} - {"step-000001", "step-000002"}
            assert left <= {"tmp-removed-000001"}, "nothing half-written stays"
        failed += isinstance(outcome, FailedSave)
        with monkeypatch.context() as patch:
            FaultyOs(0, 0, persistent=False).install(patch)
            save(store, 3)
        assert [path.name for path in store.folder.iterdir()] == ["step-000003"], "goes on once there is room"
        if faulty.calls < fail_at:
            break
    assert failed > 20
    assert fail_at > 30


def _check_outcome(store: CheckpointStore, outcome: SaveOutcome, name: str) -> None:
    loaded = store.load()
    assert is_exact(loaded)
    if isinstance(outcome, FailedSave):
        assert outcome.error.code == name
        assert "free" in str(outcome.error)
        assert "earlier checkpoints are intact" in str(outcome.error)
        # A fault after the rename leaves the new one, whole; before it nothing of it.
        assert loaded.rejected == ()
    else:
        assert loaded.step == 2


class Recorder:
    """Copies the folder as it is before every change: what a process that ends then leaves on the disk."""

    def __init__(self, folder: Path, copies: Path) -> None:
        self.folder, self.copies = folder, copies
        self.count = 0
        self._busy = False

    def wrap(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **more: Any) -> Any:
            if self._busy:
                return real(*args, **more)
            self.copy()
            if name == "write" and len(args[1]) > 1:
                real(args[0], args[1][: len(args[1]) // 2])
                self.copy()  # torn in the middle of a write
                return real(args[0], args[1][len(args[1]) // 2 :]) + len(args[1]) // 2
            return real(*args, **more)

        return call

    def copy(self) -> None:
        self._busy = True
        shutil.copytree(self.folder, self.copies / f"{self.count:04d}" / "checkpoints")
        self.count += 1
        self._busy = False


def test_a_crash_at_every_moment_leaves_the_newest_or_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = new_store(tmp_path, keep=1)
    save(store, 1)
    recorder = Recorder(store.folder, tmp_path / "copies")
    with monkeypatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, recorder.wrap(name))
        _save_behind(store)
    recorder.copy()
    steps = []
    for copy in sorted(recorder.copies.iterdir()):
        store = new_store(copy, keep=1)
        for step in store.steps():
            assert is_exact(store.load(store.folder / f"step-{step:06d}")), "never seen half there"
        steps.append(store.load().step)
        save(store, 3)
        assert [path.name for path in (copy / "checkpoints").iterdir()] == ["step-000003"]
    assert recorder.count > 25
    assert steps == sorted(steps)
    assert steps[-1] == 2, "what save returned for is there"


SAVES_FOR_EVER = """
import sys
from itertools import count
from pathlib import Path
from checkpoint_cases import new_store, save
store = new_store(Path(sys.argv[1]), keep=2)
first = store.steps()[-1] + 1 if store.steps() else 1
for step in count(first):
    save(store, step)
    print(step, flush=True)
"""


def test_sigkill_loses_nothing_that_was_acknowledged(tmp_path: Path):
    chance = random.Random(7)
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVES_FOR_EVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert child.stdout
        acknowledged = int(child.stdout.readline())
        time.sleep(chance.uniform(0.0, 0.1))
        child.send_signal(signal.SIGKILL)
        rest, _ = child.communicate(timeout=30)
        acknowledged = max([acknowledged, *(int(line) for line in rest.split(b"\n")[:-1])])
        loaded = new_store(tmp_path).load()
        assert is_exact(loaded)
        assert loaded.rejected == ()
        assert loaded.step >= acknowledged
