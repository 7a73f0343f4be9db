"""Name the disk faults of a save, so that a full disk ends a run with a sentence and not a traceback."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tunewright.errors import CheckpointError

FAULTS = {
    errno.ENOSPC: ("disk-full", "the disk is full"),
    errno.EDQUOT: ("disk-full", "the disk quota is used up"),
    errno.EROFS: ("not-writable", "the disk is read-only"),
    errno.EACCES: ("not-writable", "no permission to write"),
    errno.EPERM: ("not-writable", "no permission to write"),
    errno.EIO: ("disk-error", "the disk reported an input/output error"),
}


@contextmanager
def named_disk_faults(folder: Path, needed_bytes: int) -> Generator[None]:
    """Re-raise an OSError of the body as CheckpointError `checkpoint.disk-full`, `.not-writable`,
    `.disk-error` or, for any other cause, `.write-failed`.

    needed_bytes: what the whole save takes, told beside what is free.
    """
    try:
        yield
    except OSError as error:
        code, what = FAULTS.get(error.errno or 0, ("write-failed", f"the system refused: {error.strerror}"))
        raise CheckpointError(
            f"the checkpoint was not saved, {what}",
            where=str(error.filename or folder),
            got=f"{free_space(folder)} free",
            expected=f"about {_mebibytes(needed_bytes)}",
            hint="earlier checkpoints are intact: make room or repair the disk, then go on with --resume",
            code=f"checkpoint.{code}",
        ) from error


def free_space(folder: Path) -> str:
    """Free space of the disk that `folder` is or would be on, as text."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        return _mebibytes(shutil.disk_usage(existing).free)
    except OSError:
        return "an unknown amount"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
