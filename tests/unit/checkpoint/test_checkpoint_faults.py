"""Make every single call of a save fail, cut the power at every moment, and kill the process."""

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

from checkpoint_cases import is_exact, new_store, save
from tunewright import files
from tunewright.errors import CheckpointError

CALLS = ("open", "write", "fsync", "close", "rename")
CHANGES = ("open", "write", "fsync", "rename", "unlink", "rmdir", "mkdir")


class FaultyOs:
    """Stands for the module os inside files.py; fails one call, or all from that one on."""

    def __init__(self, fail_at: int, code: int, *, persistent: bool) -> None:
        self.calls = 0
        self._fail_at = fail_at
        self._code = code
        self._persistent = persistent

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args: Any) -> Any:
            self.calls += 1
            if self.calls == self._fail_at or (self._persistent and self.calls > self._fail_at):
                if name == "close":
                    real(*args)  # the system frees the handle even when it reports a fault
                raise OSError(self._code, os.strerror(self._code))
            return real(*args)

        return call


def _calls_of_a_save(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    counter = FaultyOs(0, errno.EIO, persistent=False)
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", counter)
        save(new_store(folder), 1)
    return counter.calls


@pytest.mark.parametrize(
    ("code", "persistent", "name"),
    [
        (errno.EIO, False, "checkpoint.disk-error"),
        (errno.ENOSPC, True, "checkpoint.disk-full"),
        (errno.EDQUOT, True, "checkpoint.disk-full"),
        (errno.EROFS, True, "checkpoint.not-writable"),
        (errno.EMFILE, False, "checkpoint.write-failed"),
    ],
)
def test_each_call_of_a_save_fails_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, persistent: bool, name: str
):
    total = _calls_of_a_save(tmp_path / "count", monkeypatch)
    assert total > 20
    for fail_at in range(1, total + 1):
        store = new_store(tmp_path / f"{fail_at}")
        save(store, 1)
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", FaultyOs(fail_at, code, persistent=persistent))
            with pytest.raises(CheckpointError) as caught:
                save(store, 2)
        assert caught.value.code == name
        assert "free" in str(caught.value)
        assert "earlier checkpoints are intact" in str(caught.value)
        # A fault after the rename leaves the new one, whole; before it nothing of it.
        loaded = store.load()
        assert is_exact(loaded)
        assert loaded.rejected == ()
        names = sorted(path.name for path in store.folder.iterdir())
        assert names in (["step-000001"], ["step-000001", "step-000002"])
        save(store, 2)
        assert store.load().step == 2, "goes on once there is room"


class Recorder:
    """Copies the folder as it is before every change: what a crash at that moment leaves on the disk.

    With `lose_unsynced`, files that were written and not yet synced are empty in the copy, as after a power
    cut on a file system that delays its writes.
    """

    def __init__(self, folder: Path, copies: Path, *, lose_unsynced: bool) -> None:
        self.folder, self.copies, self.lose_unsynced = folder, copies, lose_unsynced
        self.unsynced: set[int] = set()
        self.count = 0
        self._busy = False

    def wrap(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **more: Any) -> Any:
            if self._busy:
                return real(*args, **more)
            self.copy()
            if name == "write" and len(args[1]) > 1:
                self._note(args[0])
                real(args[0], args[1][: len(args[1]) // 2])
                self.copy()  # torn in the middle of a write
                return real(args[0], args[1][len(args[1]) // 2 :]) + len(args[1]) // 2
            result = real(*args, **more)
            if name == "fsync":
                self.unsynced.discard(os.fstat(args[0]).st_ino)
            return result

        return call

    def copy(self) -> None:
        self._busy = True
        target = self.copies / f"{self.count:04d}" / "checkpoints"
        shutil.copytree(self.folder, target)
        if self.lose_unsynced:
            for path in self.folder.rglob("*.*"):
                if path.is_file() and path.stat().st_ino in self.unsynced:
                    (target / path.relative_to(self.folder)).write_bytes(b"")
        self.count += 1
        self._busy = False

    def _note(self, handle: int) -> None:
        self.unsynced.add(os.fstat(handle).st_ino)


@pytest.mark.parametrize("lose_unsynced", [False, True])
def test_a_crash_at_every_moment_leaves_the_newest_or_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lose_unsynced: bool
):
    store = new_store(tmp_path, keep=1)
    save(store, 1)
    recorder = Recorder(store.folder, tmp_path / "copies", lose_unsynced=lose_unsynced)
    with monkeypatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, recorder.wrap(name))
        save(store, 2)
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
