"""The process between worker and trainer: no command outlives its lease, its worker or its limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service_server import wait_until

LONG = 600.0
# Starts a child of its own, notes both ids, and saves (writes a file) when it is asked to stop.
COMMAND = """
import os, pathlib, signal, subprocess, sys, time
def save(*_):
    pathlib.Path("saved").write_text("yes"); sys.exit(5)
signal.signal(signal.SIGTERM, save if sys.argv[1] == "kind" else signal.SIG_IGN)
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", deaf])
pathlib.Path("ids.new").write_text(f"{os.getpid()} {child.pid}"); os.rename("ids.new", "ids")
time.sleep(600)
"""


class Leash:
    """A leash with a command on it, as LeashedChild starts it. limits: seconds, grace, wall, memory."""

    def __init__(self, folder: Path, *command: str, limits: tuple[float, ...]) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tunewright.service.worker.leash"),
                *map(str, limits),
                *command,
            ],
            cwd=folder,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def say(self, word: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(word)
        self.process.stdin.flush()

    def ids(self) -> list[int]:
        """The command and its child, once both run."""
        path = self.folder / "ids"
        wait_until(path.exists, "the command starts")
        return [int(text) for text in path.read_text().split()]

    def end(self) -> int:
        return self.process.wait(timeout=60)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    started: list[Leash] = []

    def make(kind: str = "kind", *, seconds: float = LONG, grace: float = LONG, wall: float = 0.0) -> Leash:
        command = (sys.executable, "-c", COMMAND, kind)
        started.append(Leash(tmp_path, *command, limits=(seconds, grace, wall, 0)))
        return started[-1]

    yield make
    for leash in started:
        leash.process.kill()
        leash.process.wait()
        if leash.process.stdin:
            leash.process.stdin.close()
        for pid in leash.ids() if (leash.folder / "ids").exists() else ():
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)


def all_gone(ids: list[int]) -> bool:
    return not any(map(is_running, ids))


def test_a_lease_that_is_not_renewed_ends_everything(start) -> None:
    leash = start(seconds=1.5)
    ids = leash.ids()
    assert leash.end() == 128 + signal.SIGKILL
    wait_until(lambda: all_gone(ids), "command and child are gone")


def test_a_lease_that_is_renewed_goes_on(start) -> None:
    leash = start(seconds=2.0)
    leash.ids()
    began = time.monotonic()
    while time.monotonic() - began < 4:
        leash.say(b".")
        time.sleep(0.1)
    assert leash.process.poll() is None
    leash.say(b"k")
    assert leash.end() == 128 + signal.SIGKILL


def test_stop_lets_the_command_save_and_its_code_come_back(start, tmp_path: Path) -> None:
    leash = start()
    ids = leash.ids()
    leash.say(b"s")
    assert leash.end() == 5
    assert (tmp_path / "saved").exists()
    # The child of the command ignores the signal; nothing of the group stays.
    wait_until(lambda: all_gone(ids), "command and child are gone")


def test_one_that_does_not_stop_is_killed_after_its_grace(start) -> None:
    leash = start("stubborn", grace=0.5)
    leash.ids()
    leash.say(b"s")
    assert leash.end() == 128 + signal.SIGKILL


def test_the_end_of_the_worker_is_a_stop(start, tmp_path: Path) -> None:
    leash = start()
    ids = leash.ids()
    leash.process.stdin.close()
    assert leash.end() == 5
    assert (tmp_path / "saved").exists()
    wait_until(lambda: all_gone(ids), "command and child are gone")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_leash_that_is_killed_takes_the_command_with_it(start) -> None:
    leash = start()
    command, _child = leash.ids()
    leash.process.kill()
    wait_until(lambda: not is_running(command), "the command is gone")


def test_the_limit_of_the_whole_has_a_code_of_its_own(start) -> None:
    leash = start(wall=1.5)
    ids = leash.ids()
    assert leash.end() == 124
    wait_until(lambda: all_gone(ids), "command and child are gone")


@pytest.mark.parametrize(
    ("program", "code"),
    [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 128 + 9), ("pass", 0)],
)
def test_the_code_of_the_command_comes_back(program: str, code: int, tmp_path: Path) -> None:
    leash = Leash(tmp_path, sys.executable, "-c", program, limits=(LONG, LONG, 0, 0))
    assert leash.end() == code
    leash.process.stdin.close()


def test_memory_is_limited(tmp_path: Path) -> None:
    program = "try: bytearray(2**31)\nexcept MemoryError: raise SystemExit(4)"
    leash = Leash(tmp_path, sys.executable, "-c", program, limits=(LONG, LONG, 0, 2**30))
    assert leash.end() == 4
    assert leash.process.stdin
    leash.process.stdin.close()
