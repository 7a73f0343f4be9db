"""The audit log: who changed what, when, from where, and how it ended. One JSON object a line.

A file, not a table: it is written when the database is away too, and what is in it stays when the database is
replaced. Bodies, file names and keys never come here; a key is told by its id.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

AUDIT_FILE = "audit.jsonl"
LARGEST_FILE = 64 * 2**20
REFUSED_KEY = 401
DONE = 200
_INFERENCE = ("/v1/chat/completions", "/v1/completions")

log = logging.getLogger("tunewright.service")


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """action: method and route, or a command. outcome: the status of the answer, DONE for a command.
    objects: the ids in the address. key: its id; None when none was accepted. user: who ran a command on the
    server's machine."""

    action: str
    outcome: int
    objects: Mapping[str, str] = field(default_factory=dict[str, str])
    key: str | None = None
    project: str | None = None
    address: str | None = None
    request_id: str | None = None
    user: str | None = None

    def shown(self) -> dict[str, object]:
        """What is there, by name."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}


def is_audited(method: str, route: str, status: int) -> bool:
    """Whether a request is told: every change, every read of a file's bytes, every refused key.

    Workers' reports are in the database as attempts and events. Chats change nothing and would be most of
    the log.
    """
    if status == REFUSED_KEY:
        return True
    if route.startswith("/worker") or route in _INFERENCE:
        return False
    return method not in ("GET", "HEAD", "OPTIONS") or route.endswith("/content")


def _append(handle: int, data: bytes) -> None:
    """Write all or nothing: half a line would make the next one unreadable too. Raises OSError."""
    size = os.fstat(handle).st_size
    if os.write(handle, data) < len(data):
        os.ftruncate(handle, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class AuditLog:
    """Appends to `audit.jsonl` in the home folder, readable by its owner only."""

    def __init__(self, home: Path) -> None:
        self._path = home / AUDIT_FILE
        self._lock = threading.Lock()

    def write(self, entry: AuditEntry) -> None:
        """Append an entry. A full or broken disk is told in the log of the server and ends nothing."""
        now = datetime.now(UTC)
        line = json.dumps({"time": now.isoformat(timespec="milliseconds"), **entry.shown()}) + "\n"
        try:
            with self._lock:
                self._move_when_large(now)
                # Opened each time: commands write here too, and the operator may move the file away.
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
                handle = os.open(self._path, flags, 0o600)
                try:
                    _append(handle, line.encode())
                finally:
                    os.close(handle)
        except OSError:
            log.exception("the audit log cannot be written; lost: %s", entry.shown())

    def _move_when_large(self, now: datetime) -> None:
        try:
            if self._path.stat().st_size < LARGEST_FILE:
                return
        except FileNotFoundError:
            return
        # A name of its own for each, so that none is ever replaced. Old ones are the operator's to remove.
        os.rename(self._path, self._path.with_name(f"audit-{now:%Y%m%dT%H%M%S%f}.jsonl"))
