"""The one way a file is written: write, fsync, hash. Every byte of a checkpoint or export goes through here,
so that a test can make each single call fail."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

READ_BYTES = 1 << 20
SAMPLED_PAGES = 256
PAGE_BYTES = 4096


# Names that begin so are unfinished; whoever holds the folder may remove those that a crash left.
TEMPORARY = "tmp-"


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Size in bytes and hex sha256 of a file."""

    bytes: int
    sha256: str


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> FileDigest:
    """Write the chunks to a file and wait until the disk has them.

    Not atomic: write into a new folder and commit_folder that. After a failure no half-written file stays.
    Raises OSError with `filename` set.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        try:
            digest = _write_all(handle, chunks)
            _sync(handle)
        finally:
            os.close(handle)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(path)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        raise
    return digest


def write_json(path: Path, value: object) -> FileDigest:
    """Write a JSON file with sorted keys; NaN and infinity are refused with ValueError."""
    return write_file(path, [json_bytes(value)])


def replace_file(path: Path, chunks: Iterable[bytes | memoryview]) -> FileDigest:
    """Write a file so that a crash leaves the old content or the new one, never a part. Raises OSError."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    digest = write_file(temporary, chunks)
    os.replace(temporary, path)
    _sync_folder(path.parent)
    return digest


def json_bytes(value: object) -> bytes:
    """The bytes that write_json writes: equal values give equal bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text.encode() + b"\n"


def hash_file(path: Path) -> FileDigest:
    """Digest of a file on disk. Raises OSError."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileDigest(size, digest.hexdigest())


def sample_pages(path: Path) -> Iterator[bytes]:
    """256 evenly spaced 4 KiB pages of a file, the first and the last among them. Raises OSError."""
    room = max(path.stat().st_size - PAGE_BYTES, 0)
    with path.open("rb") as file:
        for page in range(SAMPLED_PAGES):
            file.seek(page * room // (SAMPLED_PAGES - 1))
            yield file.read(PAGE_BYTES)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, so that it survives a power cut. Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def commit_folder(temporary: Path, final: Path) -> None:
    """Give a finished folder its name: after this returns, the whole folder survives a power cut.

    Its files must come from write_file. Raises OSError, also when `final` exists and is not empty.
    """
    _sync_folder(temporary)
    os.rename(temporary, final)
    _sync_folder(final.parent)


def _write_all(handle: int, chunks: Iterable[bytes | memoryview]) -> FileDigest:
    digest = hashlib.sha256()
    size = 0
    for chunk in chunks:
        view = memoryview(chunk)
        # A view with a zero in its shape cannot be cast, and has nothing to write.
        rest = view.cast("B") if view.nbytes else memoryview(b"")
        digest.update(rest)
        size += len(rest)
        while len(rest):
            rest = rest[os.write(handle, rest) :]
    return FileDigest(size, digest.hexdigest())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        _sync(handle)
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    if sys.platform == "darwin":
        import fcntl

        # On macOS fsync leaves the data in the drive's cache; this waits for the medium, where it is known.
        with suppress(OSError):
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
            return
    os.fsync(handle)
