"""API keys: how one is made, what is stored of it, and how it is recognised."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from dataclasses import dataclass
from typing import Literal

from tunewright.service.db.database import Connection, clock
from tunewright.service.db.keys import add_key, replace_secret
from tunewright.service.ids import KEY, new_id
from tunewright.service.records import KeyRecord

Scope = Literal["jobs", "worker", "metrics", "admin"]
SCOPES: dict[str, str] = {
    "jobs": "files, jobs and models of the key's project",
    "worker": "claim jobs of every project and report on them",
    "metrics": "read /metrics, nothing else",
    "admin": "everything",
}
PREFIX = "ftk_"
SECRET_BYTES = 32
DEFAULT_PROJECT = "default"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key with its secret, which is shown once and stored nowhere."""

    record: KeyRecord
    secret: str


def create_key(
    connection: Connection,
    pepper: bytes,
    *,
    name: str,
    project: str,
    scopes: tuple[str, ...],
    seconds: float | None = None,
    requests_per_minute: int | None = None,
) -> NewKey:
    """Make and store a key. seconds: how long it is good for; None means until it is revoked."""
    secret = make_secret()
    now = clock(connection)
    record = KeyRecord(
        id=new_id(KEY),
        project=project,
        name=name,
        hint=secret[:8],
        scopes=scopes,
        created_at=now,
        expires_at=None if seconds is None else now + seconds,
        revoked_at=None,
        requests_per_minute=requests_per_minute,
    )
    add_key(connection, record, hash_secret(pepper, secret))
    return NewKey(record, secret)


def rotate_key(connection: Connection, pepper: bytes, key_id: str, grace_seconds: float) -> str | None:
    """A new secret for a live key, whose present one stays good for a while; None when there is no such key.

    Everything else of the key stays as it is, its id and expiry too.
    """
    secret = make_secret()
    stored = hash_secret(pepper, secret)
    found = replace_secret(
        connection, key_id, secret_hash=stored, hint=secret[:8], grace_seconds=grace_seconds
    )
    return secret if found else None


def make_secret() -> str:
    """256 random bits as text, with a checksum that tells a mistyped key without a look into the database."""
    body = secrets.token_urlsafe(SECRET_BYTES)
    return f"{PREFIX}{body}{_checksum(body)}"


def is_well_formed(secret: str) -> bool:
    """Whether this can be a key of ours at all."""
    body, checksum = secret.removeprefix(PREFIX)[:-6], secret[-6:]
    return secret.startswith(PREFIX) and secret.isascii() and _checksum(body) == checksum


def hash_secret(pepper: bytes, secret: str) -> str:
    """What is stored of a key. A fast keyed hash is enough: nobody guesses 256 random bits."""
    return hmac.new(pepper, secret.encode(), hashlib.sha256).hexdigest()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()) & 0xFFFFFF:06x}"
