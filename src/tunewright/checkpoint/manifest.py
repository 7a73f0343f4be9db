"""The manifest of a checkpoint folder: every file with its bytes and sha256, and a hash of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from tunewright.checkpoint.migrate import FORMAT_VERSION, migrate
from tunewright.errors import CheckpointError
from tunewright.files import FileDigest, hash_file, json_bytes, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Metric:
    """What a checkpoint is ranked by: a held-out metric of its step. Only equal names are compared."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """step: optimizer steps done. metric: of the evaluation at that step, None if there was none. identity:
    hashes and versions of what the checkpoint belongs to. files: name → digest."""

    step: int
    metric: Metric | None
    identity: Mapping[str, Any]
    files: Mapping[str, FileDigest]


def write_manifest(folder: Path, manifest: Manifest) -> FileDigest:
    """Write manifest.json. Raises OSError."""
    body: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "step": manifest.step,
        "metric": asdict(manifest.metric) if manifest.metric else None,
        "identity": dict(manifest.identity),
        "files": {
            name: {"bytes": digest.bytes, "sha256": digest.sha256} for name, digest in manifest.files.items()
        },
    }
    return write_json(folder / MANIFEST, {**body, "self_sha256": _hash(body)})


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json of any format up to today's and check it against its own hash, not yet the files.

    Raises CheckpointError: `checkpoint.damaged`, `checkpoint.newer-format`.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
        whole = cast("dict[str, Any]", json.loads(raw))
        body = {key: value for key, value in whole.items() if key != "self_sha256"}
        # Compared as bytes: other spacing or spelling of a number is damage too.
        intact = whole["self_sha256"] == _hash(body) and raw == json_bytes(whole)
    except FileNotFoundError as error:
        raise damaged(path, "is missing") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, OSError) as error:
        raise damaged(path, f"cannot be read ({type(error).__name__})") from error
    if not intact:
        raise damaged(path, "does not match its own hash: damaged or edited by hand")
    _check_version(path, body.get("format_version"))
    try:
        return _parse(migrate(body))
    except (KeyError, AttributeError, TypeError) as error:
        raise damaged(path, f"is not a manifest ({type(error).__name__}: {error})") from error


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest. Raises CheckpointError (`checkpoint.damaged`) naming the file."""
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if extra := sorted(present - manifest.files.keys()):
        raise damaged(folder / extra[0], "is not in the manifest")
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise damaged(path, "is missing")
        size = path.stat().st_size
        if size != expected.bytes:
            raise damaged(path, f"has {size} bytes, the manifest says {expected.bytes}")
        if _content_hash(path) != expected.sha256:
            raise damaged(path, "has other content than when it was saved (sha256 differs)")


def damaged(path: Path, what: str) -> CheckpointError:
    """The error for a file of a checkpoint that cannot be trusted."""
    return CheckpointError(
        what,
        where=str(path),
        hint="use an older checkpoint; --resume auto does that by itself",
        code="checkpoint.damaged",
    )


def _content_hash(path: Path) -> str:
    try:
        return hash_file(path).sha256
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})") from error


def _parse(body: Mapping[str, Any]) -> Manifest:
    files = {name: FileDigest(entry["bytes"], entry["sha256"]) for name, entry in body["files"].items()}
    metric = Metric(**body["metric"]) if body["metric"] else None
    return Manifest(body["step"], metric, body["identity"], files)


def _check_version(path: Path, version: object) -> None:
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointError(
            "was written by a newer version of this program",
            where=str(path),
            got=f"format version {version}",
            expected=f"at most {FORMAT_VERSION}",
            hint="update tunewright",
            code="checkpoint.newer-format",
        )


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_bytes(body)).hexdigest()
