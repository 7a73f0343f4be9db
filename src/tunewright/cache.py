"""The cache folder: files and folders that can be made again, shared by all runs of a user.

Each file has a lock file beside it. Whoever makes or removes the file holds that lock alone; its time of
change says when the file was last asked for. Whoever uses the file holds a shared lock on the file itself.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time

from tunewright.errors import ConfigError
from tunewright.files import write_file

CACHE_VARIABLE = "TUNEWRIGHT_CACHE"
LIMIT_VARIABLE = "TUNEWRIGHT_CACHE_GB"
DEFAULT_LIMIT_GB = 50.0
"""Size above which the files longest not asked for are removed, unless LIMIT_VARIABLE has another."""
UNUSED_SECONDS = 60 * 24 * 3600.0
"""Time after which a file that nobody asked for is removed."""
_LOCK, _UNFINISHED = ".lock", ".new"


def cache_folder() -> Path:
    """The folder that TUNEWRIGHT_CACHE names, else ~/.cache/tunewright. It may not be there yet."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "tunewright"


class CachedFile:
    """A file or folder of the cache that is in use: it is not removed while this object is there."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY)
        fcntl.flock(self._handle, fcntl.LOCK_SH)
        self.path = path

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._handle)


def make_cached(
    path: Path, is_good: Callable[[], bool], build: Callable[[], Iterable[bytes | memoryview]]
) -> CachedFile:
    """Write the file `path` of the cache from the chunks that `build` gives, unless `is_good` already.

    It gets its name only when it is whole. Of several processes one writes, and the others wait for it.
    Old files of the same folder make room for a new one. Raises OSError and what `build` raises.
    """

    def write() -> None:
        # One name for all processes: what a killed one left is written over, not left behind.
        temporary = path.with_name(f"{path.name}{_UNFINISHED}")
        write_file(temporary, build())
        temporary.replace(path)

    return _make(path, is_good, write)


def make_cached_folder(path: Path, build: Callable[[], None]) -> CachedFile:
    """The folder `path` of the cache, which `build` makes whole unless it is there; else as make_cached."""
    return _make(path, path.exists, build)


def _make(path: Path, is_good: Callable[[], bool], write: Callable[[], None]) -> CachedFile:
    limit = cache_limit()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, fcntl.LOCK_EX) as handle:
        is_found = is_good()
        if not is_found:
            write()
        os.utime(handle)
        cached = CachedFile(path)
    if not is_found:
        prune(path.parent, limit)
    return cached


def cache_limit() -> float:
    """Bytes that the files of one folder may take together. Raises ConfigError (`config.cache-limit`)."""
    text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_GB)
    with suppress(ValueError):
        if float(text) >= 0:
            return float(text) * 1e9
    raise ConfigError(
        "the limit of the cache is not a size",
        where=LIMIT_VARIABLE,
        got=repr(text),
        expected="gigabytes, such as 50",
        code="config.cache-limit",
    )


def prune(folder: Path, limit: float) -> None:
    """Remove what was not asked for in UNUSED_SECONDS, then the longest unused until `limit` bytes are left.

    Files in use stay, and so do those that are being made. What cannot be removed is left alone: a cache that
    is too large is no reason to end a run.
    """
    found: list[tuple[float, int, Path]] = []
    for lock in folder.glob(f"*{_LOCK}"):
        path = lock.with_name(lock.name.removesuffix(_LOCK))
        with suppress(OSError):
            found.append((lock.stat().st_mtime, _size(path), path))
    total = sum(size for _, size, _ in found)
    for asked, size, path in sorted(found):
        is_old = time() - asked > UNUSED_SECONDS
        with suppress(OSError):
            if (is_old or total > limit) and _remove(path):
                total -= size


def _remove(path: Path) -> bool:
    """Remove a file or folder and what a killed process left of it; False when it is in use or being made."""
    unfinished = path.with_name(f"{path.name}{_UNFINISHED}")
    with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
        _discard(unfinished)
        if path.exists():
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Renamed first: nobody could tell of a half removed folder that it is not whole.
                path.replace(unfinished)
            except BlockingIOError:
                return False
            finally:
                os.close(handle)
        _discard(unfinished)
        path.with_name(f"{path.name}{_LOCK}").unlink()
    return True


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, how: int) -> Generator[int]:
    """Hold the lock file of `path`. Raises BlockingIOError when LOCK_NB is asked for and somebody has it."""
    lock = path.with_name(f"{path.name}{_LOCK}")
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, how)
            if not _is_same(handle, lock):
                continue  # it was removed while this process waited: another one may hold its successor
            yield handle
            return
        finally:
            os.close(handle)


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    """Bytes of a file or folder and of what a killed process left of it. A link counts as itself."""
    paths = (path, path.with_name(f"{path.name}{_UNFINISHED}"))
    found = [file for each in paths if each.exists() for file in (each, *each.glob("*"))]
    return sum(file.lstat().st_size for file in found if not file.is_dir())
