"""Freed memory stays with the process, so that the next step on a CPU need not fault in every page again."""

from __future__ import annotations

import ctypes
import os

# From malloc.h of glibc.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# The most that an int holds. A block that is larger comes from the system and goes back there.
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library to reuse what is freed instead of returning it: the process stays at its peak.

    Changes the whole process, for good. Returns whether it was done: not by a C library other than glibc, nor
    where the environment says how (`MALLOC_…_`, `GLIBC_TUNABLES`).
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version") or _is_told_otherwise():
        return False
    thresholds = (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD)
    return all(library.mallopt(threshold, _LARGEST) == 1 for threshold in thresholds)


def _is_told_otherwise() -> bool:
    return "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") for name in os.environ
    )
