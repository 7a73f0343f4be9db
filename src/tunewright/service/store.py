"""Where bytes live: a store that names them by their sha256. The database says what they are."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tunewright.files import make_folder

CHUNK_BYTES = 1 << 20
UNFINISHED_SECONDS = 24 * 3600
"""How long after its last byte a blob that was not finished is given up."""
_HASH = re.compile(r"[0-9a-f]{64}")


class BlobWriter(Protocol):
    """Takes bytes piece by piece; they are kept by `commit` only."""

    size: int

    def write(self, data: bytes) -> None: ...
    def commit(self) -> str:
        """Make the bytes durable and return their hex sha256."""
        ...

    def abort(self) -> None:
        """Throw away what was written. Does nothing after commit."""
        ...


class BlobStore(Protocol):
    """Content-addressed bytes. Raises OSError throughout; KeyError for a hash that is not stored."""

    def writer(self) -> BlobWriter: ...
    def has(self, sha256: str) -> bool: ...
    def read(self, sha256: str) -> Iterator[bytes]:
        """The bytes in pieces of at most 1 MiB."""
        ...

    def remove(self, sha256: str) -> None: ...


class LocalBlobs:
    """A BlobStore in one folder of this machine: objects/ab/ab12…, written in tmp/ first."""

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._temporary = root / "tmp"
        for folder in (self._objects, self._temporary):
            make_folder(folder)
        self._forget_unfinished()

    def writer(self) -> BlobWriter:
        """A new blob; nothing is visible before its commit."""
        return _LocalWriter(self._temporary / secrets.token_hex(16), self)

    def has(self, sha256: str) -> bool:
        """Whether these bytes are stored."""
        return self.path(sha256).exists()

    def read(self, sha256: str) -> Iterator[bytes]:
        """The bytes in pieces of at most 1 MiB."""
        path = self.path(sha256)
        if not path.exists():
            raise KeyError(sha256)
        return _chunks(path)

    def remove(self, sha256: str) -> None:
        """Remove the bytes if they are there."""
        self.path(sha256).unlink(missing_ok=True)

    def _forget_unfinished(self) -> None:
        """Remove what a server that was killed had begun. Other servers may write to the same folder."""
        for path in self._temporary.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > UNFINISHED_SECONDS:
                    path.unlink()

    def path(self, sha256: str) -> Path:
        """The file of a hash. Raises KeyError for text that is no hash, so that none can leave the folder."""
        if not _HASH.fullmatch(sha256):
            raise KeyError(sha256)
        return self._objects / sha256[:2] / sha256


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


class _LocalWriter:
    def __init__(self, path: Path, store: LocalBlobs) -> None:
        self.size = 0
        self._path = path
        self._store = store
        self._digest = hashlib.sha256()
        self._file = path.open("xb")

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def commit(self) -> str:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        sha256 = self._digest.hexdigest()
        final = self._store.path(sha256)
        make_folder(final.parent)
        os.replace(self._path, final)
        _sync_folder(final.parent)
        return sha256

    def abort(self) -> None:
        # On a full disk closing fails as well: what is left in the buffer finds no room either.
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
