"""Room for what a server writes: how a full disk is recognised, and until when it counts as full."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import threading
import time
from pathlib import Path

LEAST_BYTES = 4 * 2**20
"""Free bytes below which a server can hardly note anything."""
MORE_BYTES = 2**20
"""By how much the free room has to grow until a disk that was full counts as one that is not."""
REMEMBERED_SECONDS = 60.0
"""A quota may be full while the disk shows free room; one more write finds out."""
_SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)


def is_full(error: BaseException) -> bool:
    """Whether a fault of the system, of SQLite or of PostgreSQL says that a disk or a quota is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    cause = getattr(error, "orig", None)
    return (
        getattr(cause, "sqlite_errorcode", None) in _SQLITE_FULL
        or getattr(cause, "sqlstate", None) == "53100"
    )


class Room:
    """What a server remembers of writes that found no room: in the home folder and in the database, which may
    be elsewhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._home_full_at = -REMEMBERED_SECONDS
        self._enough_bytes = 0
        self._database_full_at: float | None = None

    def note_home_full(self, home: Path) -> None:
        """A write below the home folder failed, and what it left was removed."""
        with self._lock:
            self._home_full_at = time.monotonic()
            self._enough_bytes = shutil.disk_usage(home).free + MORE_BYTES

    def note_database(self, *, is_full: bool) -> None:
        """A write to the database found no room, or room again."""
        with self._lock:
            self._database_full_at = time.monotonic() if is_full else None

    def is_home_full(self, home: Path) -> bool:
        """Whether the next large write there will hardly find room."""
        free = shutil.disk_usage(home).free
        with self._lock:
            lately = time.monotonic() - self._home_full_at < REMEMBERED_SECONDS
            return free < LEAST_BYTES or (lately and free < self._enough_bytes)

    def should_try_database(self) -> bool:
        """Whether only a write can tell that the database has room again; true once a second at most."""
        with self._lock:
            if self._database_full_at is None or time.monotonic() - self._database_full_at < 1.0:
                return False
            self._database_full_at = time.monotonic()
            return True

    @property
    def is_database_full(self) -> bool:
        """Whether the last write to the database found no room."""
        return self._database_full_at is not None
