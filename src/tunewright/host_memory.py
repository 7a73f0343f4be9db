"""How much memory this process has taken, and may take: that of the machine, or of its control group."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
STATUS = Path("/proc/self/status")


def host_memory_bytes() -> int:
    """Bytes of memory that the machine and its control groups (containers, systemd, Slurm) leave; 0 where
    nothing tells."""
    return min((size for size in (_physical_bytes(), *_limits()) if size > 0), default=0)


def resident_bytes() -> int:
    """Memory of this process now; its peak so far where only that is told."""
    return _status_bytes("VmRSS") or _usage_bytes()


def peak_process_bytes() -> int:
    """The most memory that this process has had."""
    return _status_bytes("VmHWM") or _usage_bytes()


def _status_bytes(field: str) -> int:
    """A field of Linux's own account; 0 elsewhere. getrusage() would count what the parent had."""
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def _usage_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0


def _limits() -> Iterator[int]:
    """Limits of this process's groups of both versions, and of the groups around them. Version 1 says a huge
    number, version 2 `max`, where there is none."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _limits_above(GROUPS, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits_above(GROUPS / "memory", path, "memory.limit_in_bytes")


def _limits_above(root: Path, path: str, name: str) -> Iterator[int]:
    # Inside a container the path may be that of the host and not exist; its own limit is then at the root.
    own = root / path.lstrip("/")
    for folder in (own, *own.parents):
        with suppress(OSError, ValueError):
            yield int((folder / name).read_text())
        if folder == root:
            return
