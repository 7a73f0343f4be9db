"""How much memory this process has taken, and may take: that of the machine, or of its control group."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
STATUS = Path("/proc/self/status")
MEMORY = Path("/proc/meminfo")


def host_memory_bytes() -> int:
    """Bytes of memory that the machine and its control groups (containers, systemd, Slurm) leave; 0 where
    nothing tells."""
    limits = (limit for limit, _ in _groups())
    return min((size for size in (_physical_bytes(), *limits) if size > 0), default=0)


def free_memory_bytes() -> int:
    """Bytes that the machine and its control groups have left, with cached files that they would give up for
    it; 0 where nothing tells."""
    left = [limit - used for limit, used in _groups()]
    free = _mac_free_bytes() if sys.platform == "darwin" else _kernel_bytes(MEMORY, "MemAvailable")
    return max(min([free, *left]), 0)


def resident_bytes() -> int:
    """Memory of this process now; its peak so far where only that is told."""
    return _kernel_bytes(STATUS, "VmRSS") or _usage_bytes()


def peak_process_bytes() -> int:
    """The most memory that this process has had."""
    return _kernel_bytes(STATUS, "VmHWM") or _usage_bytes()


def _kernel_bytes(account: Path, field: str) -> int:
    """A field of Linux's own account; 0 elsewhere. getrusage() would count what the parent had."""
    with suppress(OSError):
        for line in account.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def _usage_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _physical_bytes() -> int:
    try:
        # Not SC_PAGE_SIZE, which some builds of Python for macOS lack.
        return os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0


def _mac_free_bytes() -> int:
    """What is free, inactive or read ahead by macOS' own count of pages."""
    try:
        told = subprocess.run(["vm_stat"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    size = re.search(r"page size of (\d+) bytes", told)
    counts = re.findall(r"^Pages (?:free|inactive|speculative): +(\d+)", told, re.MULTILINE)
    return int(size[1]) * sum(map(int, counts)) if size else 0


def _groups() -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of this process's groups of both versions, and of those around them. Version 1
    says a huge number, version 2 `max`, where there is no limit."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _groups_above(GROUPS, path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root = GROUPS / "memory"
            yield from _groups_above(root, path, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _groups_above(root: Path, path: str, limit: str, used: str) -> Iterator[tuple[int, int]]:
    # Inside a container the path may be that of the host and not exist; its own limit is then at the root.
    own = root / path.lstrip("/")
    for folder in (own, *own.parents):
        with suppress(OSError, ValueError):
            yield int((folder / limit).read_text()), _used_bytes(folder, used)
        if folder == root:
            return


def _used_bytes(folder: Path, name: str) -> int:
    """Without cached files that nobody has read lately: the group would give those up first."""
    with suppress(OSError, ValueError):
        cached = re.search(r"^inactive_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
        return int((folder / name).read_text()) - (int(cached[1]) if cached else 0)
    return 0
