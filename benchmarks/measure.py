"""What one measured process reports: its steps by wall and CPU time, and its memory above the model.

A process may be asked to wait between its steps, so that several programs are measured in turn and each is
measured warm. It then tells of each turn when it is over, and reads one line before the next.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True, slots=True)
class Work:
    """What a step trains on. tokens: real ones, without padding; labels: those with a loss; squares: Σ
    length² of the documents."""

    tokens: int
    labels: int
    squares: float


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step. loss: mean over labels."""

    work: Work
    wall_seconds: float
    cpu_seconds: float
    loss: float


@dataclass(frozen=True, slots=True)
class Turn:
    """What a process did between two lines from its parent. CPU seconds are those of all threads."""

    tokens: int
    wall_seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """What a process tells last. peak_bytes: on a CPU above the process before the model, without the
    weights themselves; on a GPU all allocations."""

    name: str
    steps: list[Step]
    peak_bytes: int
    details: dict[str, Any] = field(default_factory=dict)


def read_report(line: str) -> Report:
    """The report of a line that a process wrote."""
    found = json.loads(line)
    steps = [Step(**{**step, "work": Work(**step["work"])}) for step in found["steps"]]
    return Report(**{**found, "steps": steps})


class Stopwatch:
    """Times the steps of a process. turn: steps after which it waits, the first ones of `warm_up` apart; with
    0 it never waits."""

    def __init__(self, *, warm_up: int, turn: int) -> None:
        self._warm_up, self._turn = warm_up, turn
        self._out = _take_stdout()
        self._work: list[Work] = []
        self._times: list[tuple[float, float]] = []
        self._told = 0
        self._mark = _now()

    def begin(self, work: Work) -> bool:
        """A step starts and the one before it ends. False: the parent wants no more steps."""
        count = len(self._work)
        due = count >= self._warm_up and (count - self._warm_up) % self._turn == 0 if self._turn else False
        if due or count == self._warm_up:
            # What is still to be done of the steps so far would count as time of the next ones.
            _wait_for_device()
        self._end_step()
        if due or (self._turn and count == 0):
            self._tell_turn()
            if not sys.stdin.readline():
                return False
        self._work.append(work)
        self._mark = _now()
        return True

    def end(self) -> None:
        """The last step is over once the device has done it."""
        _wait_for_device()
        self._end_step()

    def _end_step(self) -> None:
        if len(self._times) < len(self._work):
            wall, cpu = _now()
            self._times.append((wall - self._mark[0], cpu - self._mark[1]))

    def report(self, name: str, losses: list[float], peak_bytes: int, details: dict[str, Any]) -> None:
        """Tell everything. losses: of the steps, in order."""
        self.end()
        rows = zip(self._work, self._times, losses, strict=True)
        steps = [Step(work, *times, loss) for work, times, loss in rows]
        self._write(asdict(Report(name, steps, peak_bytes, details)))

    def _tell_turn(self) -> None:
        times = self._times[self._told :]
        tokens = sum(work.tokens for work in self._work[self._told :])
        self._told = len(self._times)
        self._write(asdict(Turn(tokens, sum(wall for wall, _ in times), sum(cpu for _, cpu in times))))

    def _write(self, message: dict[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()


def _wait_for_device() -> None:
    """Until a GPU has done what it was given: programs dispatch steps ahead of it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _take_stdout() -> TextIO:
    """Standard output for the stopwatch alone: what libraries print goes to stderr from here on."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


class PeakMemory:
    """Highest memory from here on: resident memory of the process, or allocations of the GPU."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._start = 0
        if device == "cpu":
            # Resets the high-water mark, so that loading libraries does not count.
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._start = _resident("VmRSS")

    def read(self, weights: int) -> int:
        """Bytes above the start and, on a CPU, above the model's `weights` bytes."""
        if self._device == "cpu":
            return _resident("VmHWM") - self._start - weights
        import torch

        return torch.cuda.max_memory_allocated()


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def hold_heap() -> None:
    """Make glibc keep freed memory, which it otherwise returns and faults in again for the next tensor."""
    libc = ctypes.CDLL("libc.so.6")
    m_trim_threshold, m_mmap_threshold = -1, -3
    for parameter in (m_trim_threshold, m_mmap_threshold):
        if libc.mallopt(parameter, 2**31 - 1) != 1:
            raise SystemExit("error: this C library does not take a threshold of 2 GiB")
