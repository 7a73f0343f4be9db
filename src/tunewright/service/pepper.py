"""The pepper: random bytes beside the database, without which the hashes in it open nothing."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PEPPER_BYTES = 32


def load_pepper(home: Path) -> bytes:
    """Read `pepper` in the home folder; the first start makes it, readable by its owner only.

    Raises OSError.
    """
    path = home / "pepper"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(PEPPER_BYTES))
        file.flush()
        os.fsync(file.fileno())
    return path.read_bytes()
