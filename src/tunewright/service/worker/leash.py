"""A small process between worker and trainer, so that no trainer outlives its lease.

Usage: python -m tunewright.service.worker.leash SECONDS GRACE WALL MEMORY COMMAND…

It starts COMMAND in a process group of its own and reads its standard input, a pipe from the worker:
`.` lets the command run SECONDS longer, `s` asks it to save and stop, `k` ends it. If the pipe closes, the
worker is gone: the command is asked to stop and ended GRACE seconds later. If no `.` comes in time, the
worker may be frozen and the job be somebody else's by now: the whole group is killed at once. WALL seconds
and MEMORY bytes limit the command as a whole; 0 means no limit. It exits with the command's code, 128 and
the number for a signal, 124 for WALL. On Linux the command ends with this process even if that is killed.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

TIMED_OUT = 124


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    seconds, grace, wall = (float(text) for text in arguments[:3])
    memory = int(arguments[3])
    if memory:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    child = subprocess.Popen(
        list(arguments[4:]),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_end_with_leash if sys.platform == "linux" else None,
    )
    leash = _Leash(child, seconds, grace, wall)
    try:
        return leash.hold()
    finally:
        leash.signal_group(signal.SIGKILL)


_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _end_with_leash() -> None:
    """Called in the new process: the system ends it when the leash ends in a way that it cannot act on."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _Leash:
    def __init__(self, child: subprocess.Popen[bytes], seconds: float, grace: float, wall: float) -> None:
        self._child = child
        self._seconds = seconds
        self._grace = grace
        now = time.monotonic()
        self._kill_at = now + seconds
        self._wall_at = now + wall if wall else float("inf")
        self._stop_by = float("inf")
        self._ended, self._tell_end = os.pipe()
        threading.Thread(target=self._wait, daemon=True).start()

    def hold(self) -> int:
        watched = [sys.stdin.fileno(), self._ended]
        timed_out = False
        while True:
            now = time.monotonic()
            deadline = min(self._kill_at, self._wall_at, self._stop_by)
            if deadline <= now:
                timed_out = self._wall_at <= now
                self.signal_group(signal.SIGKILL)
                break
            ready, _, _ = select.select(watched, [], [], min(deadline - now, 3600))
            if self._ended in ready:
                break
            if ready and not self._obey(os.read(watched[0], 4096)):
                watched = [self._ended]
        code = self._child.wait()
        if timed_out:
            return TIMED_OUT
        return 128 - code if code < 0 else code

    def _obey(self, words: bytes) -> bool:
        """Do what the worker says; False when it will say nothing any more."""
        if b"." in words:
            self._kill_at = time.monotonic() + self._seconds
        if b"k" in words:
            self.signal_group(signal.SIGKILL)
        if (b"s" in words or not words) and self._stop_by == float("inf"):
            self._stop_by = time.monotonic() + self._grace
            self.signal_group(signal.SIGTERM)
        return bool(words)

    def signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, number)

    def _wait(self) -> None:
        self._child.wait()
        os.write(self._tell_end, b"x")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
