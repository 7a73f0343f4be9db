"""What one measured process reports: its steps by wall and CPU time, and its memory above the model."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step. tokens: real ones, without padding; labels: those with a loss; squares: Σ length²
    of the documents; loss: mean over labels."""

    tokens: int
    labels: int
    squares: float
    wall_seconds: float
    cpu_seconds: float
    loss: float


@dataclass(frozen=True, slots=True)
class Report:
    """What a process prints as its last line. peak_bytes: above the process before the model, without the
    weights themselves on a CPU; all of the device's allocations on a GPU."""

    name: str
    steps: list[Step]
    peak_bytes: int
    details: dict[str, Any] = field(default_factory=dict)

    def print(self) -> None:
        """Write the report where the parent reads it."""
        sys.stdout.write(json.dumps(asdict(self)) + "\n")


def read_report(text: str) -> Report:
    """The report in the last line of what a process printed."""
    found = json.loads(text.strip().splitlines()[-1])
    return Report(**{**found, "steps": [Step(**step) for step in found["steps"]]})


class Clock:
    """Durations since the last tick, by wall and by CPU time of all threads."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def tick(self) -> tuple[float, float]:
        """(wall seconds, CPU seconds) since the last tick."""
        wall, cpu = time.perf_counter(), time.process_time()
        passed = wall - self._wall, cpu - self._cpu
        self._wall, self._cpu = wall, cpu
        return passed


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


HELD_HEAP = {
    # glibc then keeps freed memory instead of giving it back and faulting it in again for the next tensor.
    "MALLOC_MMAP_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


def process_environment(threads: int, *, hold_heap: bool) -> dict[str, str]:
    """Environment of a measured process."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    return {
        **plain,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "WANDB_DISABLED": "true",
        **(HELD_HEAP if hold_heap else {}),
    }
