"""Fine-tuned models as folders that the model server can load, written from the blob store when needed."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

from tunewright.service.context import Service
from tunewright.service.db.artifacts import find_model
from tunewright.service.faults import bad_value, no_such_model
from tunewright.service.records import ArtifactRecord, KeyRecord

KEPT_BYTES = 10 * 2**30
"""Folders beyond this go, the least recently used first; they can be written again."""
KEPT_SECONDS = 600.0
"""No folder goes so soon after its use: the model server may be about to read it."""
_lock = threading.Lock()


def find_served(service: Service, key: KeyRecord, name: str) -> dict[str, str | None]:
    """What the model server needs to know of a model. Raises ApiError 404 when the project has none of this
    name, and 400 when its base is not offered any more. Blocks while files are written."""
    base = service.settings.models.get(name)
    if base is not None:
        return {"name": name, "base": base, "folder": None}
    with service.database.read() as connection:
        tuned = find_model(connection, key.project, name)
    if tuned is None or not tuned.files:
        raise no_such_model(name)
    base = service.settings.models.get(tuned.base)
    if base is None:
        raise bad_value(f"The base of '{name}' is not offered any more: {tuned.base}", "model")
    return {"name": tuned.id, "base": base, "folder": str(_folder(service, tuned))}


def forget_served(service: Service, artifact_id: str) -> None:
    """Remove the folder of a deleted model."""
    shutil.rmtree(_root(service) / artifact_id, ignore_errors=True)


def _folder(service: Service, tuned: ArtifactRecord) -> Path:
    folder = _root(service) / tuned.id
    with _lock:
        if not folder.is_dir():
            _write(service, tuned, folder)
            _clear(folder.parent)
        os.utime(folder)
    return folder


def _write(service: Service, tuned: ArtifactRecord, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for file in tuned.files:
            path = partial / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                for chunk in service.blobs.read(file.sha256):
                    out.write(chunk)
    except OSError:
        # What is left of it would keep a full disk full.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(folder)


def _clear(root: Path) -> None:
    folders = [path for path in root.iterdir() if path.is_dir()]
    folders.sort(key=lambda path: path.stat().st_mtime)
    sizes = {folder: _bytes(folder) for folder in folders}
    for folder in folders:
        if sum(sizes.values()) <= KEPT_BYTES or time.time() - folder.stat().st_mtime < KEPT_SECONDS:
            return
        shutil.rmtree(folder, ignore_errors=True)
        del sizes[folder]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _root(service: Service) -> Path:
    return service.settings.home / "served"
