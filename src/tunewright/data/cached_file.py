"""Files about a data file in the cache folder: found again as long as the data file is the same."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from tunewright.cache import CACHE_VARIABLE, CachedFile, cache_folder, make_cached
from tunewright.errors import DataError
from tunewright.files import sample_pages

FORMAT = 1
"""Raise it when what is written changes, so that older files are made again."""


def cached_path(data: Path, kind: str) -> Path:
    """The place of the cached file of this kind; another one once path, size, time or content change."""
    facts = data.stat()
    state = f"{FORMAT} {data.resolve()} {facts.st_size} {facts.st_mtime_ns}\n"
    digest = hashlib.sha256(state.encode())
    for page in sample_pages(data):
        digest.update(page)
    return cache_folder() / "data" / f"{digest.hexdigest()[:32]}.{kind}"


def write_cached(
    path: Path, is_good: Callable[[], bool], build: Callable[[], Iterable[bytes | memoryview]], shown: str
) -> CachedFile:
    """As make_cached. A disk fault is a DataError about the data: `data.cache-full` or `data.cache`."""
    try:
        return make_cached(path, is_good, build)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise cache_full(path, shown) from error
        raise DataError(
            f"the index of the data cannot be written: {error.strerror or error}",
            where=shown,
            got=str(error.filename or path),
            hint=f"set {CACHE_VARIABLE} to a folder that can be written",
            code="data.cache",
        ) from error


def check_room(path: Path, needed_bytes: int, shown: str) -> None:
    """Raise DataError `data.cache-full` when a file of this size would not fit beside `path`."""
    folder = next(folder for folder in path.parents if folder.exists())
    if shutil.disk_usage(folder).free < needed_bytes:
        raise cache_full(path, shown, needed_bytes)


def cache_full(path: Path, shown: str, needed_bytes: int | None = None) -> DataError:
    """The error for a cache folder without room."""
    return DataError(
        "the cache folder has no room for a copy or index of the data",
        where=shown,
        got=f"a full disk at {path.parent}",
        expected=f"about {needed_bytes / 2**30:.1f} GiB free" if needed_bytes else None,
        hint=f"make room, or set {CACHE_VARIABLE} to a folder on another disk",
        code="data.cache-full",
    )
