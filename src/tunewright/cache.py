"""The cache folder: files that can be made again, shared by all runs of a user."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from tunewright.files import write_file

CACHE_VARIABLE = "TUNEWRIGHT_CACHE"


def cache_folder() -> Path:
    """The folder that TUNEWRIGHT_CACHE names, else ~/.cache/tunewright. It may not be there yet."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "tunewright"


def make_cached(
    path: Path, is_good: Callable[[], bool], build: Callable[[], Iterable[bytes | memoryview]]
) -> None:
    """Write the file `path` of the cache from the chunks that `build` gives, unless `is_good` already.

    It gets its name only when it is whole. Of several processes one writes, and the others wait for it.
    Raises OSError and what `build` raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if is_good():
            return
        # One name for all processes: what a killed one left is written over, not left behind.
        temporary = path.with_name(f"{path.name}.new")
        write_file(temporary, build())
        temporary.replace(path)
    finally:
        os.close(handle)
