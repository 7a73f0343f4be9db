"""Give a full or read-only disk a name and a hint instead of a traceback, for writes outside checkpoints."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tunewright.checkpoint.disk import FAULTS, free_space
from tunewright.errors import RunError

CODES = {"disk-full": "run.disk-full", "not-writable": "run.not-writable", "disk-error": "run.disk-error"}


@contextmanager
def named_disk_errors(folder: Path) -> Generator[None]:
    """Re-raise the write errors that a user can act on as RunError `run.disk-full`, `.not-writable` or
    `.disk-error`; others pass through."""
    try:
        yield
    except OSError as error:
        if error.errno not in FAULTS:
            raise
        kind, what = FAULTS[error.errno]
        raise RunError(
            what,
            where=str(error.filename or folder),
            got=f"{free_space(folder)} free",
            hint="make room or choose another folder with --out, then go on with --resume",
            code=CODES[kind],
        ) from error
