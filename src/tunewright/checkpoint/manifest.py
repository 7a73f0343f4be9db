"""The manifest of a checkpoint folder: every file with its bytes and sha256, and a hash of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tunewright.errors import CheckpointError
from tunewright.files import FileDigest, hash_file, write_json

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """step: optimizer steps done. metric: held-out loss at that step, None if not evaluated then. identity:
    hashes and versions of what the checkpoint belongs to. files: name → digest."""

    step: int
    metric: float | None
    identity: Mapping[str, Any]
    files: Mapping[str, FileDigest]


def write_manifest(folder: Path, manifest: Manifest) -> FileDigest:
    """Write manifest.json. Raises OSError."""
    body: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "step": manifest.step,
        "metric": manifest.metric,
        "identity": dict(manifest.identity),
        "files": {
            name: {"bytes": digest.bytes, "sha256": digest.sha256} for name, digest in manifest.files.items()
        },
    }
    return write_json(folder / MANIFEST, {**body, "self_sha256": _hash(body)})


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json and check it against its own hash, not yet the files.

    Raises CheckpointError: `checkpoint.damaged`, `checkpoint.newer-format`.
    """
    path = folder / MANIFEST
    try:
        body = cast("dict[str, Any]", json.loads(path.read_bytes()))
        claimed = body.pop("self_sha256")
    except FileNotFoundError as error:
        raise _damaged(path, "is missing") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, OSError) as error:
        raise _damaged(path, f"cannot be read ({type(error).__name__})") from error
    if claimed != _hash(body):
        raise _damaged(path, "does not match its own hash: damaged or edited by hand")
    if body["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            "was written by a newer version of this program",
            where=str(path),
            got=f"format version {body['format_version']}",
            expected=f"at most {FORMAT_VERSION}",
            hint="update tunewright",
            code="checkpoint.newer-format",
        )
    files = {name: FileDigest(entry["bytes"], entry["sha256"]) for name, entry in body["files"].items()}
    return Manifest(body["step"], body["metric"], body["identity"], files)


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest. Raises CheckpointError (`checkpoint.damaged`) naming the file."""
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if extra := sorted(present - manifest.files.keys()):
        raise _damaged(folder / extra[0], "is not in the manifest")
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise _damaged(path, "is missing")
        size = path.stat().st_size
        if size != expected.bytes:
            raise _damaged(path, f"has {size} bytes, the manifest says {expected.bytes}")
        if hash_file(path).sha256 != expected.sha256:
            raise _damaged(path, "has other content than when it was saved (sha256 differs)")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        what,
        where=str(path),
        hint="use an older checkpoint; --resume auto does that by itself",
        code="checkpoint.damaged",
    )


def _hash(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
