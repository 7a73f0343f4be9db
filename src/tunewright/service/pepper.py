"""The pepper: random bytes beside the database, without which the hashes in it open nothing."""

from __future__ import annotations

import logging
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from tunewright.errors import ServiceError

PEPPER_BYTES = 32
log = logging.getLogger("tunewright.service")


def load_pepper(home: Path) -> bytes:
    """Read `pepper` in the home folder; the first start makes it, readable by its owner only.

    Raises OSError and ServiceError (`service.pepper`).
    """
    path = pepper_path(home)
    if not path.exists():
        _make(path)
    pepper = path.read_bytes()
    if len(pepper) < PEPPER_BYTES:
        raise ServiceError(
            "the secret that keys are hashed with is cut short",
            where=str(path),
            got=f"{len(pepper)} bytes",
            expected=f"{PEPPER_BYTES} or more",
            hint="restore it from a backup; without one remove it and make new keys",
            code="service.pepper",
        )
    if stat.S_IMODE(path.stat().st_mode) & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("other users of this machine can read %s: chmod 600 it", path)
    return pepper


def pepper_path(home: Path) -> Path:
    """Where the pepper of a home folder lies; it is the first thing there."""
    return home / "pepper"


def _make(path: Path) -> None:
    # Whole before it has its name: a command beside the first start may read it at once.
    partial = path.with_name(f"pepper-{secrets.token_hex(8)}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(PEPPER_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink()
