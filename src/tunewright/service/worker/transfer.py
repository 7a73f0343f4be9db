"""Move folders between worker and server, file by file, by the hash of their bytes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tunewright.errors import ServiceError
from tunewright.files import hash_file
from tunewright.service.records import ArtifactKind
from tunewright.service.schemas.lease import Lease, NewArtifact, StoredFileModel
from tunewright.service.worker.client import ServerClient
from tunewright.service.worker.keeper import LeaseKeeper

STATE_FILES = ("config.yaml", "plan.json", "data_report.json")


class Transfer:
    """Sends and fetches for one attempt. Raises LeaseLost and OSError."""

    def __init__(self, client: ServerClient, lease: Lease, keeper: LeaseKeeper) -> None:
        self._client = client
        self._lease = lease
        self._keeper = keeper

    def send_export(self, folder: Path, kind: ArtifactKind, step: int) -> None:
        """Store a folder of exports as a checkpoint or as the model."""
        self._send(folder, _files(folder), kind, step)

    def send_state(self, run: Path, checkpoint: Path, step: int) -> None:
        """Store what another machine needs to resume from this checkpoint."""
        files = [run / name for name in STATE_FILES if (run / name).exists()]
        files += _files(checkpoint)
        plan = json.loads((run / "plan.json").read_bytes())
        self._send(run, files, "state", step, place=f"{plan['engine']}/{plan['device'].partition(':')[0]}")

    def fetch(self, files: Sequence[StoredFileModel], folder: Path) -> None:
        """Write files into a folder that appears only when all of them are there.

        Raises ServiceError (`service.transfer`) when bytes came that are not what the server named.
        """
        partial = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        for file in files:
            path = partial / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            self.fetch_file(file, path)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    def fetch_file(self, file: StoredFileModel, path: Path) -> None:
        """Write one file, unless its bytes are there already. Raises as fetch."""
        if path.exists() and hash_file(path).sha256 == file.sha256:
            return
        self._keeper.call(lambda: self._client.fetch_blob(self._lease, file, path))
        found = hash_file(path).sha256
        if found != file.sha256:
            raise ServiceError(
                "other bytes came than the server named",
                where=file.path,
                got=found[:12],
                expected=file.sha256[:12],
                hint="the connection or a disk is faulty; the job is tried again",
                code="service.transfer",
            )

    def _send(
        self, root: Path, paths: Sequence[Path], kind: ArtifactKind, step: int, place: str | None = None
    ) -> None:
        by_hash: dict[str, Path] = {}
        files: list[StoredFileModel] = []
        for path in paths:
            digest = hash_file(path)
            by_hash[digest.sha256] = path
            name = path.relative_to(root).as_posix()
            files.append(StoredFileModel(path=name, sha256=digest.sha256, bytes=digest.bytes))
        call = self._keeper.call
        for sha256 in call(lambda: self._client.missing_blobs(sorted(by_hash))):
            call(lambda sha256=sha256: self._client.send_blob(sha256, by_hash[sha256]))
        artifact = NewArtifact(kind=kind, step=step, files=files, place=place)
        call(lambda: self._client.add_artifact(self._lease, artifact))


def _files(folder: Path) -> list[Path]:
    """All files of a folder. Raises FileNotFoundError when it is gone, which is not the same as empty."""
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())
