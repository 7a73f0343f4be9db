"""This machine's processor, as the system tells of it: planner and engines say the same, and no library is
loaded."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")

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
