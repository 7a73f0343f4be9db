"""Give a full or read-only disk a name and a hint instead of a traceback."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tunewright.errors import RunError

NAMED = {
    errno.ENOSPC: ("the disk is full", "run.disk-full"),
    errno.EDQUOT: ("the disk quota is used up", "run.disk-full"),
    errno.EROFS: ("the file system is read-only", "run.not-writable"),
    errno.EACCES: ("no permission to write", "run.not-writable"),
    errno.EIO: ("the disk reports an input/output error", "run.disk-error"),
}


@contextmanager
def named_disk_errors(folder: Path) -> Generator[None]:
    """Turn the write errors that a user can act on into RunError; others pass through."""
    try:
        yield
    except OSError as error:
        if error.errno not in NAMED:
            raise
        what, code = NAMED[error.errno]
        raise RunError(
            what,
            where=str(error.filename or folder),
            got=_free_space(folder),
            hint="make room or choose another folder with --out, then go on with --resume",
            code=code,
        ) from error


def _free_space(folder: Path) -> str | None:
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return f"{shutil.disk_usage(existing).free / 2**20:.0f} MiB free" if existing else None
