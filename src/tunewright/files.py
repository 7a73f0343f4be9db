"""The one way a file is written: write, fsync, hash. Every byte of a checkpoint or export goes through here,
so that a test can make each single call fail."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Size in bytes and hex sha256 of a file."""

    bytes: int
    sha256: str


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> FileDigest:
    """Write the chunks to a new file and wait until the disk has them. Raises OSError as the system gives it."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "wb", buffering=0) as file:
        for chunk in chunks:
            rest = memoryview(chunk).cast("B")
            digest.update(rest)
            size += len(rest)
            while len(rest):
                rest = rest[os.write(file.fileno(), rest) :]
        os.fsync(file.fileno())
    return FileDigest(size, digest.hexdigest())


def write_json(path: Path, value: object) -> FileDigest:
    """Write a JSON file with sorted keys; NaN and infinity are refused with ValueError."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return write_file(path, [text.encode() + b"\n"])


def hash_file(path: Path) -> FileDigest:
    """Digest of a file on disk."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileDigest(size, digest.hexdigest())


def commit_folder(temporary: Path, final: Path) -> None:
    """Give a finished folder its name: after this returns, the whole folder survives a power cut."""
    _fsync_folder(temporary)
    os.rename(temporary, final)
    _fsync_folder(final.parent)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
