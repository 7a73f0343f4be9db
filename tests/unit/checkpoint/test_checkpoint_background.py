"""Saves in the background: one at a time, no fault lost, no save cut by the end of the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from checkpoint_cases import IDENTITY, is_exact, new_store, start_save, state_of
from tunewright import files
from tunewright.checkpoint.background import BackgroundWriter, FailedSave
from tunewright.checkpoint.store import SavedCheckpoint
from tunewright.types import Array, EngineState


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Holds every fsync of a save back until it is set: a disk that is slow for as long as a test likes."""
    opened = threading.Event()
    real = os.fsync

    def slow(handle: int) -> None:
        assert opened.wait(30)
        real(handle)

    monkeypatch.setattr(files.os, "fsync", slow)
    return opened


def test_a_save_goes_on_while_the_caller_does(tmp_path: Path, gate: threading.Event):
    with BackgroundWriter(new_store(tmp_path)) as writer:
        assert start_save(writer, 1) < 0.1
        assert writer.finished() == []
        gate.set()
        (saved,) = writer.drain()
        assert isinstance(saved, SavedCheckpoint)
        assert (saved.step, saved.path) == (1, tmp_path / "checkpoints" / "step-000001")
        assert writer.finished() == writer.drain() == [], "told once"
    assert is_exact(new_store(tmp_path).load())


def test_the_next_save_waits_for_the_one_before_and_says_how_long(tmp_path: Path, gate: threading.Event):
    with BackgroundWriter(new_store(tmp_path)) as writer:
        start_save(writer, 1)
        threading.Timer(0.3, gate.set).start()
        started = time.perf_counter()
        stalled = start_save(writer, 2)
        assert 0.2 < stalled <= time.perf_counter() - started
        assert [outcome.step for outcome in writer.drain()] == [1, 2]


def test_finished_tells_as_soon_as_a_save_is_done(tmp_path: Path):
    with BackgroundWriter(new_store(tmp_path)) as writer:
        start_save(writer, 1)
        deadline = time.monotonic() + 10
        while not (found := writer.finished()):
            assert time.monotonic() < deadline
    assert [outcome.step for outcome in found] == [1]


def test_a_named_fault_is_an_outcome_and_the_next_save_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with BackgroundWriter(new_store(tmp_path)) as writer:
        start_save(writer, 1)
        writer.drain()
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", full)
            start_save(writer, 2)
            (failed,) = writer.drain()
        assert isinstance(failed, FailedSave)
        assert (failed.step, failed.error.code) == (2, "checkpoint.disk-full")
        start_save(writer, 3)
    assert new_store(tmp_path).steps() == [1, 3]
    assert [outcome.step for outcome in writer.finished()] == [3], "to be read after close too"


@pytest.mark.parametrize("call", ["save", "finished", "drain", "close"])
def test_a_bug_in_the_thread_is_raised_by_the_next_call(tmp_path: Path, call: str):
    writer = BackgroundWriter(new_store(tmp_path))
    writer.save(1, state_of(1), {"bad": object()}, IDENTITY, None)

    def ask_until_it_raises() -> None:
        """The other calls wait for the thread."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            writer.finished()
            time.sleep(0.01)

    calls = {
        "save": lambda: start_save(writer, 2),
        "finished": ask_until_it_raises,
        "drain": writer.drain,
        "close": writer.close,
    }
    with pytest.raises(TypeError, match="not JSON serializable"):
        calls[call]()
    writer.close()
    assert new_store(tmp_path).steps() == [], "and once only"


def test_an_interrupt_while_waiting_loses_no_save(tmp_path: Path, gate: threading.Event):
    me = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    with BackgroundWriter(new_store(tmp_path)) as writer:
        start_save(writer, 1)
        threading.Timer(0.2, signal.pthread_kill, (me, signal.SIGUSR1)).start()
        with pytest.raises(KeyboardInterrupt):
            writer.drain()
        gate.set()
        assert [outcome.step for outcome in writer.drain()] == [1]
    signal.signal(signal.SIGUSR1, before)


ENDS_WHILE_SAVING = """
import os, sys, time
from pathlib import Path
from checkpoint_cases import new_store, start_save
from tunewright import files
from tunewright.checkpoint.background import BackgroundWriter
real = os.fsync
def slow(handle):
    time.sleep(0.05)
    real(handle)
files.os.fsync = slow
writer = BackgroundWriter(new_store(Path(sys.argv[1])))
start_save(writer, 1)
start_save(writer, 2)
{end}
"""


@pytest.mark.parametrize(
    ("end", "code"), [("raise ValueError('a bug')", 1), ("sys.exit(5)", 5), ("pass", 0)], ids=lambda v: str(v)
)
def test_a_process_that_ends_finishes_the_save_and_then_goes(tmp_path: Path, end: str, code: int):
    done = subprocess.run(
        [sys.executable, "-c", ENDS_WHILE_SAVING.replace("{end}", end), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    loaded = new_store(tmp_path).load()
    assert (loaded.step, loaded.rejected) == (2, ())
    assert is_exact(loaded)


def test_python_code_runs_while_a_large_state_is_hashed_and_written(tmp_path: Path):
    state = EngineState({"w": Array("U8", (2**26,), bytes(2**26))}, {})
    turns = 0
    with BackgroundWriter(new_store(tmp_path)) as writer:
        writer.save(1, state, {}, IDENTITY, None)
        while not writer.finished():
            turns += 1
    assert turns > 1000
