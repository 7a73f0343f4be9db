"""The host processor as both engines report it."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor's name, as its maker writes it where the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def resident_bytes() -> int:
    """Memory that this process holds now; its peak on macOS, which tells no other."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource  # macOS: no /proc, and ru_maxrss is in bytes there

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
