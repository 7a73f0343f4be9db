"""The pepper: random bytes beside the database, without which the hashes in it open nothing.

The database holds its fingerprint, so that a lost pepper, or that of another server, is noticed before every
key is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from tunewright.errors import ServiceError
from tunewright.service.db.database import Connection, Database
from tunewright.service.db.peppers import has_keys, hold_pepper, put_fingerprint, read_fingerprint

PEPPER_BYTES = 32
_PURPOSE = b"fingerprint of the pepper"
_START_ANEW = "`tunewright key reset` ends every key and starts anew"
log = logging.getLogger("tunewright.service")


def take_pepper(home: Path, database: Database) -> bytes:
    """Read the pepper that the keys of the database are hashed with, and hold the database to it.

    The first start makes `pepper` in the home folder, readable by its owner only. A database from before
    fingerprints is held to the pepper that its home has. Raises OSError and ServiceError (`service.pepper`,
    `service.pepper-missing`, `service.pepper-other`).
    """
    with database.write() as connection:
        hold_pepper(connection)
        expected = read_fingerprint(connection)
        if expected is None and not has_keys(connection):
            _make(pepper_path(home))
        pepper = _read_matching(home, expected)
        if expected is None:
            put_fingerprint(connection, fingerprint(pepper))
    _warn_of_readers(pepper_path(home))
    return pepper


def check_pepper(home: Path, database: Database) -> bool:
    """Check that take_pepper would succeed, and change nothing. Returns whether a pepper is there already.

    Raises as take_pepper.
    """
    with database.read() as connection:
        expected = read_fingerprint(connection)
        needed = expected is not None or has_keys(connection)
    if not needed and not pepper_path(home).exists():
        return False
    _read_matching(home, expected)
    return True


def replace_pepper(home: Path, connection: Connection) -> bytes:
    """Hold the database to the pepper that the home folder has, or to a new one if it has none.

    Keys that were hashed with another one are the caller's to revoke, in the same transaction. Raises OSError
    and ServiceError (`service.pepper`).
    """
    hold_pepper(connection)
    _make(pepper_path(home))
    pepper = _read_matching(home, None)
    put_fingerprint(connection, fingerprint(pepper))
    return pepper


def pepper_path(home: Path) -> Path:
    """The file of the pepper in a home folder."""
    return home / "pepper"


def fingerprint(pepper: bytes) -> str:
    """Text that tells peppers apart and says nothing about them."""
    return hmac.new(pepper, _PURPOSE, hashlib.sha256).hexdigest()


def _read_matching(home: Path, expected: str | None) -> bytes:
    """The pepper of the home folder. expected: its fingerprint; None accepts any."""
    path = pepper_path(home)
    try:
        pepper = path.read_bytes()
    except FileNotFoundError as error:
        raise ServiceError(
            "the secret that the keys of this database are hashed with is missing",
            where=str(path),
            hint="restore `pepper` from a backup, or copy it from another server of this database; if it is "
            f"lost, {_START_ANEW}",
            code="service.pepper-missing",
        ) from error
    if len(pepper) < PEPPER_BYTES:
        raise ServiceError(
            "the secret that keys are hashed with is cut short",
            where=str(path),
            got=f"{len(pepper)} bytes",
            expected=f"{PEPPER_BYTES} or more",
            hint=f"restore it from a backup; if it is lost, remove it, and {_START_ANEW}",
            code="service.pepper",
        )
    if expected is not None and not hmac.compare_digest(fingerprint(pepper), expected):
        raise ServiceError(
            "this is not the secret that the keys of this database are hashed with",
            where=str(path),
            got=f"fingerprint {fingerprint(pepper)[:12]}…",
            expected=f"fingerprint {expected[:12]}…",
            hint="name the database of this home folder, or restore `pepper` from a backup or from another "
            f"server of this database; if it is lost, {_START_ANEW}",
            code="service.pepper-other",
        )
    return pepper


def _warn_of_readers(path: Path) -> None:
    if stat.S_IMODE(path.stat().st_mode) & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("other users of this machine can read %s: chmod 600 it", path)


def _make(path: Path) -> None:
    """Make a pepper unless there is one."""
    if path.exists():
        return
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
    # Its fingerprint must not outlive it when the power goes.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
