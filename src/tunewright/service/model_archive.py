"""A stored model as a tar archive that has the same bytes each time, streamed from the blob store.

One file is not as stored: an adapter of a base that is a folder of the operator names it as the API does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tunewright.files import json_bytes
from tunewright.service.faults import SERVER, ApiError
from tunewright.service.records import ArtifactRecord
from tunewright.service.store import BlobStore

ADAPTER_CONFIG = "adapter_config.json"
BASE = "base_model_name_or_path"
END = bytes(2 * tarfile.BLOCKSIZE)
log = logging.getLogger("tunewright.service")


@dataclass(frozen=True, slots=True)
class ModelArchive:
    """The archive of one model."""

    artifact: ArtifactRecord
    blobs: BlobStore

    def chunks(self) -> Iterator[bytes]:
        """The archive in pieces of at most 1 MiB. Raises KeyError and OSError for lost bytes."""
        # In an order that no database decides.
        for file in sorted(self.artifact.files, key=lambda file: file.path):
            content, size = self.blobs.read(file.sha256), file.bytes
            if file.path == ADAPTER_CONFIG:
                data = self._without_folder(b"".join(content))
                content, size = iter([data]), len(data)
            info = tarfile.TarInfo(file.path)
            info.size, info.mode, info.mtime = size, 0o644, int(self.artifact.created_at)
            yield info.tobuf(tarfile.PAX_FORMAT)
            yield from content
            if padding := -size % tarfile.BLOCKSIZE:
                yield bytes(padding)
        yield END

    def check(self) -> tuple[int, str]:
        """Read everything once; returns size and hex sha256. Raises ApiError 500 when bytes were lost."""
        digest, size = hashlib.sha256(), 0
        try:
            for chunk in self.chunks():
                digest.update(chunk)
                size += len(chunk)
        except (KeyError, OSError) as error:
            raise self._lost() from error
        return size, digest.hexdigest()

    def _without_folder(self, config: bytes) -> bytes:
        told: dict[str, Any] = json.loads(config)
        if not PurePath(str(told.get(BASE))).is_absolute():
            return config
        return json_bytes({**told, BASE: self.artifact.base})

    def _lost(self) -> ApiError:
        log.error("%s: bytes of the model are missing from the blob store", self.artifact.name)
        return ApiError(
            500,
            f"The server has lost bytes of '{self.artifact.name}'; its operator can restore `blobs` from a "
            "backup",
            type=SERVER,
            code="model_incomplete",
            headers={"x-should-retry": "false"},
        )
