"""This machine's processor, as the system tells of it: planner and engines say the same, and no library is
loaded."""

from __future__ import annotations

import os
import platform
from collections.abc import MutableMapping
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
# Measured by benchmarks/busy_cpu.py: fewer cost speed on idle cores, more cost it beside other work.
_SPIN_ROUNDS = "5000"

# Instructions that multiply bf16 and add up in fp32. Only those of x86: on no ARM machine was it measured.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def cpu_dtypes() -> tuple[str, ...]:
    """Number formats that this CPU trains in at native speed: fp32, and bf16 where it multiplies that.

    fp16 is left out on purpose: no CPU trains faster in it, and its range needs loss scaling.
    """
    return ("fp32", "bf16") if _BF16_FLAGS & set(_read("flags").split()) else ("fp32",)


def usable_cores() -> int:
    """Cores that this process may use, which a container or taskset can make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_spinning(environ: MutableMapping[str, str]) -> None:
    """Let threads of GNU OpenMP wait at a barrier for about 0.1 ms of spinning, then sleep.

    To be called before a library that brings libgomp is loaded, which reads it once. Its own 300,000
    rounds are many milliseconds on processors with a slow `pause`: where other work keeps one core busy,
    each barrier then costs its thread the whole time. Variables of the user's win.
    """
    if not environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        environ["GOMP_SPINCOUNT"] = _SPIN_ROUNDS


def cpu_name() -> str:
    """The processor's name, as its maker writes it where the system tells."""
    return _read("model name") or platform.processor() or platform.machine()


def _read(field: str) -> str:
    """What the system says of the first processor; nothing where it does not tell."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
